"""Constants that were chosen by measuring, each tested by its effect."""

import dataclasses

import pytest
import torch

from pipeline.style.method.targets import style_target
from pipeline.style.network.weights import load_network
from pipeline.style.optimizer.lbfgs import LBFGS
from pipeline.style.optimizer.precondition import color_metric
from pipeline.style.serving import lanes
from pipeline.style.serving.lanes import Lane, Start
from tests.conftest import picture
from tests.style.network.plain_weights import equal_weights

ACTIVE = torch.ones(1, dtype=torch.bool)


def evaluated(solver, loss, gradient):
    solver.step(torch.tensor([loss]), torch.tensor([gradient]), ACTIVE)
    return float(solver.x[0, 0])


def test_a_failed_step_is_shortened_to_the_parabolas_minimum_within_its_bounds():
    """f(0) = 0 with slope -1; the value at the failed point tells how far to go."""
    for failed_at, expected in ((1.5, 0.2), (1000.0, 0.1), (0.01, 0.4951)):
        solver = LBFGS(torch.zeros(1, 1), first_step=1.0)
        assert evaluated(solver, 0.0, [-1.0]) == 1.0
        # The parabola through f(0) = 0, f'(0) = -1, f(1) = c has its minimum at 1 / (2 (c + 1)).
        assert evaluated(solver, failed_at, [5.0]) == pytest.approx(expected, rel=1e-3)


def test_gradient_steps_double_while_no_curvature_is_known():
    solver = LBFGS(torch.zeros(1, 1), first_step=1.0)
    points = [evaluated(solver, -float(n), [-1.0]) for n in range(4)]  # a constant slope
    assert points == pytest.approx([1, 3, 7, 15])


def filled(quick, **changes):
    settings = dataclasses.replace(quick, tolerance=0.0, **changes)
    network = load_network(settings).double()
    image = picture(0, 64, 64).double()
    target = style_target(network, picture(5, 64, 64).double(), settings)
    lane = Lane(network, (64, 64), 1, settings)
    lane.enter(0, Start(image, image, target, equal_weights(1e-5), 10**9))
    return lane


def test_learning_pairs_reach_twice_as_far(quick):
    """Until a pair has learnt its metric, L-BFGS starts from H_0 = 2 gamma P."""
    lane = filled(quick)
    solver = LBFGS(
        lane.optimizer.x.clone(), first_step=quick.first_step / 255, bounds=(0, 1), reach=2.0
    )
    for _ in range(8):
        assert torch.allclose(solver.x, lane.optimizer.x, atol=1e-9)
        loss, gradient = lane.objective(solver.x.view(1, 3, 64, 64))
        preconditioned = lane.precondition(gradient).flatten(1)
        solver.step(loss, gradient.flatten(1), ACTIVE, preconditioned)
        lane.tick()


def test_a_pair_learns_after_ten_twenty_forty_and_eighty_evaluations(quick, monkeypatch):
    lane, learnt, teach = filled(quick), [], lanes.teach

    def noted(*arguments):
        learnt.append(len(lane.traces[0]))
        teach(*arguments)

    monkeypatch.setattr(lanes, "teach", noted)
    for _ in range(170):
        lane.tick()
    assert learnt == [10, 20, 40, 80]


def test_a_grey_styles_metric_still_moves_colors_by_a_hundredth():
    grey = torch.full((3, 3), 0.04, dtype=torch.float64)
    values = torch.linalg.eigvalsh(color_metric(grey))
    assert (values / values[-1]).tolist() == pytest.approx([0.01, 0.01, 1.0], rel=1e-6)
