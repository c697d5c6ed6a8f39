"""Do a whole job from Python: python examples/job.py [FOLDER].

It writes four pictures into two folders, pairs them in a manifest and stylises the pairs.
"""

import logging
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import JobError, JobSettings, ManifestSettings, StyleSettings, make_manifest, run_job

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
logging.basicConfig(level=logging.WARNING)  # INFO tells what the job does


def write_picture(path: Path, waves: int) -> None:
    """Write a picture of coloured waves, 96 x 64 px."""
    y, x = np.mgrid[0:64, 0:96] / 96
    angles = 2 * np.pi * waves * np.stack([x, y, x * y], axis=-1)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.uint8(127 + 120 * np.sin(angles))).save(path)


for number in (1, 2):
    write_picture(folder / "photos" / f"photo{number}.png", number)
    write_picture(folder / "paintings" / f"painting{number}.png", 8 * number)

made = make_manifest(
    ManifestSettings(
        content=str(folder / "photos"),
        style=str(folder / "paintings"),
        output=str(folder / "pairs"),
        overwrite=True,
    )
)
print(f"{made.pairs} pairs of {made.contents} photographs and {made.styles} paintings")

try:
    summary = run_job(
        JobSettings(manifest=str(folder / "pairs"), output=str(folder / "out"), actors=1),
        StyleSettings(weights="compact", image_size=64, iterations=10),
        on_progress=lambda progress: logging.debug("%s of %s", progress.done, progress.total),
    )
except JobError as error:
    sys.exit(f"error: {error}")
print(f"{summary['ok']} pictures, {summary['error']} errors")
print(f"{summary['last_run']['seconds']:.0f} s, {summary['report']}")
