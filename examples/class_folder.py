"""Write a small class-folder set and two styles: python examples/class_folder.py [FOLDER].

FOLDER/photos/CLASS/NAME.png are 40 crops of two photographs, 192 x 192 px; FOLDER/paintings has two
pictures with much texture. All come with scikit-image.
"""

import sys
from pathlib import Path

import skimage.data
from PIL import Image

SIDE = 192

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
for name in ("chelsea", "coffee"):  # a cat, a cup
    photograph = Image.fromarray(getattr(skimage.data, name)())
    (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
    for number in range(20):
        row, column = divmod(number, 5)
        left = column * (photograph.width - SIDE) // 4
        top = row * (photograph.height - SIDE) // 3
        crop = photograph.crop((left, top, left + SIDE, top + SIDE))
        crop.save(folder / "photos" / name / f"{number:02}.png")
for name in ("rocket", "immunohistochemistry"):
    (folder / "paintings").mkdir(exist_ok=True)
    painting = Image.fromarray(getattr(skimage.data, name)())
    painting.crop((0, 0, 384, 384)).save(folder / "paintings" / f"{name}.png")
print(f"{folder / 'photos'}: 2 classes of 20 pictures; {folder / 'paintings'}: 2 styles")
