"""Stylise within a Ray Data pipeline of one's own.

Run it with: python examples/ray_data.py [FOLDER]
"""

import sys
from pathlib import Path

import ray
import skimage.data

from pipeline import Stylizer

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
style = skimage.data.hubble_deep_field()[:256, :256]
rows = [
    {"name": "coffee", "content_image": skimage.data.coffee(), "style_image": style},
    {"name": "chelsea", "content_image": skimage.data.chelsea(), "style_image": style},
    {"name": "broken", "content_image": style[:4, :4], "style_image": style},
]

stylized = ray.data.from_items(rows).map_batches(
    Stylizer,
    fn_constructor_kwargs={"weights": "compact", "image_size": 64, "iterations": 10},
    batch_size=8,
    batch_format="numpy",
    compute=ray.data.ActorPoolStrategy(size=1),
)
for row in stylized.iter_rows():
    if row["error"]:
        print(f"{row['name']}: {row['error']}")
    else:
        (folder / f"{row['name']}.png").write_bytes(row["stylized_image"])
        print(f"{row['name']}: loss {row['total_loss']:.3g}")
