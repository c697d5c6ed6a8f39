"""Train on stylised digits, test on textured ones.

Run it with: python examples/augment.py [FOLDER] [--quick]

The digits come with scikit-learn, the pictures with scikit-image. A small network is trained on
plain white digits, and on the same digits with two kinds of augmentation. It is tested on plain
digits that it has not seen, and on the same ones made of brick, grass and gravel.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

from pipeline import StylizedDataset

SIDE = 32
STYLES = ("chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket")
TEXTURES = ("brick", "grass", "gravel")  # none of them is a style


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return all digits, white on black (N, 3, 32, 32) in [0, 1], in random order, and labels."""
    data = load_digits()
    small = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    large = F.interpolate(small, size=(SIDE, SIDE), mode="bilinear").clamp(0, 1)
    order = torch.randperm(len(large), generator=torch.Generator().manual_seed(0))
    return large[order].expand(-1, 3, -1, -1), torch.tensor(data.target)[order]


def textured(images: torch.Tensor) -> torch.Tensor:
    """Return the digits in a bright texture, on another one that is dark."""
    rng = np.random.default_rng(0)
    photos = [torch.from_numpy(getattr(skimage.data, name)()) / 255 for name in TEXTURES]

    def cut() -> torch.Tensor:
        photo = photos[rng.integers(len(photos))]
        top, left = (rng.integers(length - 2 * SIDE) for length in photo.shape)
        piece = photo[top : top + 2 * SIDE, left : left + 2 * SIDE][None, None]
        return F.interpolate(piece, size=(SIDE, SIDE), mode="area")[0]

    made = [digit * (0.5 + 0.5 * cut()) + (1 - digit) * 0.5 * cut() for digit in images]
    return torch.stack(made)


def recoloured(images: torch.Tensor) -> torch.Tensor:
    """Return each image between two random colours, in the place of black and white."""
    dark, bright = torch.rand(2, len(images), 3, 1, 1)
    return dark + (bright - dark) * images


def network() -> nn.Sequential:
    """Return a small network of ten classes, untrained."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 5, stride=2, padding=2), nn.BatchNorm2d(after)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10))


def train(passes: list[torch.Tensor], labels: torch.Tensor, epochs: int, augment, seed: int):
    """Train on the passes in turn."""
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        images = passes[epoch % len(passes)]
        for batch in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(augment(images[batch])), labels[batch]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of images (N, 3, H, W) that the model labels correctly."""
    return (model(images).argmax(1) == labels).float().mean().item()


def main() -> None:
    """Train the three models and print their accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=".", type=Path)
    parser.add_argument("--quick", action="store_true", help="a trial run; its figures say little")
    args = parser.parse_args()
    count, tests, passes, evaluations, epochs, seeds = 300, 1000, 3, 15, 48, 3
    if args.quick:
        count, tests, passes, evaluations, epochs, seeds = 40, 50, 1, 3, 2, 1

    images, labels = digits()
    source = list(zip(images[:count], labels[:count], strict=True))
    seen, seen_labels = images[count : count + tests], labels[count : count + tests]
    tested = {"plain": seen, "textured": textured(seen)}

    styles = [getattr(skimage.data, name)() for name in STYLES]
    # With the default content_weight most of these digits can no longer be read.
    dataset = StylizedDataset(
        source, styles, p=0.5, evaluations=evaluations, content_weight=1.0, seed=0
    )
    started = time.perf_counter()
    stylised = []
    for epoch in range(passes):  # kept, so that several networks can be trained on them
        dataset.set_epoch(epoch)
        batches = list(DataLoader(dataset, batch_size=50, num_workers=2))
        stylised.append(torch.cat([images for images, _ in batches]))
    stylised_labels = torch.cat([labels for _, labels in batches])  # two workers: another order
    print(f"{passes} x {count} digits, p=0.5: {time.perf_counter() - started:.0f} s")

    plain = [images[:count]], labels[:count]
    runs = {
        "no augmentation": (*plain, nn.Identity()),
        "random colours": (*plain, recoloured),
        "stylised, p=0.5": (stylised, stylised_labels, nn.Identity()),
        "stylised and random colours": (stylised, stylised_labels, recoloured),
    }
    print(f"accuracy in %, mean of {seeds} networks (lowest to highest)")
    for name, (given, given_labels, augment) in runs.items():
        models = [train(given, given_labels, epochs, augment, seed) for seed in range(seeds)]
        cells = []
        for kind, pictures in tested.items():
            found = [100 * accuracy(model, pictures, seen_labels) for model in models]
            spread = f"({min(found):.1f} to {max(found):.1f})"
            cells.append(f"{kind} {np.mean(found):5.1f} {spread}")
        print(f"{name:30} {'   '.join(cells)}")

    rows = [images[:10], stylised[0][:10], tested["textured"][:10]]
    sheet = torch.cat([torch.cat([*row], dim=2) for row in rows], dim=1)
    sheet = (sheet * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(sheet).resize((10 * 64, 3 * 64)).save(args.folder / "augment.png")
    print(args.folder / "augment.png")


if __name__ == "__main__":
    main()
