"""Stylise a photograph in a notebook or script.

Run it with: python examples/notebook.py [FOLDER]
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import skimage.data
from PIL import Image

from pipeline import stylize

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
content = Image.fromarray(skimage.data.astronaut())
style = skimage.data.hubble_deep_field()  # an array serves as well

result = stylize(content, style, weights="compact", image_size=128, iterations=40)

result.image.save(folder / "stylized.png")
result.history.plot()
plt.savefig(folder / "loss.png")
print(f"{folder / 'stylized.png'}: loss {result.history.total_loss:.3g}")
