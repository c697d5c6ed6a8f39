"""The measured first metric: its values, at any size, and that a lane begins with it."""

import dataclasses

import pytest
import torch

from pipeline.style.method.targets import style_target
from pipeline.style.network.weights import load_network
from pipeline.style.optimizer.measured import LOGARITHMS, measured_metric
from pipeline.style.optimizer.precondition import Preconditioner
from pipeline.style.serving.lanes import Lane, Start
from tests.conftest import picture
from tests.style.network.plain_weights import equal_weights


def rings_of(size):
    P = Preconditioner(size, 1, 0.75, torch.zeros(1, dtype=torch.float64))
    return measured_metric(P).rings


def test_between_frequencies_the_logarithms_are_interpolated():
    rings = rings_of((128, 96))  # ring j has j + 1 cycles in 128 pixels
    assert torch.diagonal(rings, dim1=1, dim2=2).mean() == pytest.approx(1)
    values, vectors = torch.linalg.eigh(rings)
    logs = vectors @ torch.diag_embed(values.log()) @ vectors.mT
    known = {octave: torch.tensor(numbers) for octave, numbers in LOGARITHMS}
    upper = logs[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]].float()
    # The metric is scaled as a whole, which cancels in differences of logarithms.
    apart = known[-5.0] - known[-3.0]
    assert torch.allclose(upper[3] - upper[15], apart, atol=1e-5)
    part = torch.log2(torch.tensor(1.5))
    middle = torch.lerp(known[-5.0], known[-4.0], part)  # 6 cycles: 2 ** -4.415 a pixel
    assert torch.allclose(upper[5] - upper[15], middle - known[-3.0], atol=1e-5)


def test_images_of_other_sizes_have_the_same_metric_at_the_same_frequency():
    small, large = rings_of((64, 64)), rings_of((128, 128))
    ratio = large[1::2][: len(small)] / small[: len(large[1::2])]
    assert torch.allclose(ratio, ratio[:1, :1, :1].expand_as(ratio), rtol=1e-6)


@pytest.mark.parametrize("plain", [True, False])
def test_a_lane_begins_with_it_whatever_the_other_preconditioners_are(quick, plain):
    off = {"spectral_exponent": 0.0, "color_preconditioner": False, "learn_preconditioner": False}
    settings = dataclasses.replace(quick, first_metric="measured", **(off if plain else {}))
    network = load_network(settings)
    image, style = picture(0, 64, 48), picture(5, 64, 48)
    lane = Lane(network, (64, 48), 1, settings)
    target = style_target(network, style, settings)
    lane.enter(0, Start(image, image, target, equal_weights(1e-5), 5))
    assert torch.allclose(lane.precondition.metric(0).rings, rings_of((64, 48)).float())
