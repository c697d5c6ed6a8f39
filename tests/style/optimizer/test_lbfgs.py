"""L-BFGS and Adam over a batch of slots."""

import pytest
import torch

from pipeline.settings import StyleSettings
from pipeline.style.method.objective import Objective
from pipeline.style.method.targets import style_targets
from pipeline.style.network.rescaling import normalise
from pipeline.style.network.vgg import VGG
from pipeline.style.optimizer import buffers
from pipeline.style.optimizer.adam import Adam
from pipeline.style.optimizer.lbfgs import LBFGS
from tests.conftest import picture
from tests.style.network.plain_weights import equal_weights

PLAIN = {"curvature_test": "absolute", "first_step": 0.0, "backtracks": 0, "history_size": 100}


def problem(narrow_state, slots):
    """Return content images and a function that makes the objective of chosen slots, in float64."""
    state = normalise(narrow_state, "conv5_1", "avg", "zeros")
    network = VGG(state, deepest_layer="conv5_1").double()
    settings = StyleSettings(scales=1)
    content = torch.stack([picture(b, 32, 32) for b in range(slots)]).double()
    targets = [
        style_targets(network, picture(10 + b, 32, 32).double(), (32, 32), settings)[0]
        for b in range(slots)
    ]

    def objective(which):
        made = Objective(network, len(which), settings)
        for slot, b in enumerate(which):
            made.put(slot, content[b], targets[b], equal_weights(1e-5))
        return made

    return content, objective


def test_plain_form_follows_torch_slot_by_slot(narrow_state):
    content, objective = problem(narrow_state, 3)
    start = content + 0.05 * torch.randn(
        content.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    together = objective([0, 1, 2])
    ours = LBFGS(start.flatten(1), **PLAIN)
    active = torch.ones(3, dtype=torch.bool)
    iterates = []
    for _ in range(11):
        iterates.append(ours.x.clone())
        loss, gradient = together(ours.x.view_as(start))
        ours.step(loss, gradient.flatten(1), active)

    for b in range(3):
        alone = objective([b])
        x = start[b : b + 1].clone().requires_grad_(True)
        # One call per step, as its state carries over; tolerances off.
        torchs = torch.optim.LBFGS(
            [x], lr=1, max_iter=1, history_size=100, tolerance_grad=0, tolerance_change=0
        )

        def closure(x=x, alone=alone):
            loss, gradient = alone(x)
            x.grad = gradient
            return loss.sum()

        for k in range(11):
            assert torch.allclose(iterates[k][b], x.detach().flatten(), rtol=0, atol=1e-9), (b, k)
            torchs.step(closure)


def quadratic(x, scale):
    return 0.5 * (scale * x.square()).sum(1), scale * x


def test_minimises_badly_scaled_quadratics():
    scale = torch.logspace(-2, 2, 20).expand(3, 20) * torch.tensor([[1e-6], [1.0], [1e6]])
    solver = LBFGS(torch.ones(3, 20), first_step=0.1)
    active = torch.ones(3, dtype=torch.bool)
    first, _ = quadratic(solver.x, scale)
    for _ in range(120):
        solver.step(*quadratic(solver.x, scale), active)
    # The loss's scale does not matter: torch's absolute test would never move the first slot.
    assert (solver.loss < 1e-4 * first).all()


def test_accepted_loss_never_rises():
    def rosenbrock(x):
        x = x.detach().requires_grad_(True)
        value = (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    start = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    solver = LBFGS(start, first_step=0.5)
    active = torch.ones(4, dtype=torch.bool)
    trace = []
    for _ in range(300):
        solver.step(*rosenbrock(solver.x), active)
        trace.append(solver.loss.clone())
    losses = torch.stack(trace)
    assert (losses[1:] <= losses[:-1]).all()
    assert (losses[-1] < 1e-3 * losses[0]).all()


@pytest.mark.parametrize("backtracks", [0, 6])
def test_nan_in_one_slot_never_touches_its_neighbours(backtracks):
    scale = torch.logspace(-1, 1, 10).expand(3, 10)
    active = torch.ones(3, dtype=torch.bool)

    def run(poison):
        solver = LBFGS(torch.ones(3, 10), first_step=0.1, backtracks=backtracks)
        for k in range(25):
            loss, gradient = quadratic(solver.x, scale)
            if poison and k >= 5:
                loss[1], gradient[1] = torch.nan, torch.nan
            solver.step(loss, gradient, active)
        return solver

    clean, poisoned = run(False), run(True)
    for b in (0, 2):
        assert torch.equal(clean.accepted[b], poisoned.accepted[b])
    assert poisoned.stopped.tolist() == [False, True, False]
    assert poisoned.failed[1]
    assert torch.isfinite(poisoned.accepted[1]).all()


def test_a_slot_recovers_from_a_step_into_infinity():
    def steep(x):
        loss = (1 / x + x).sum(1)
        loss[(x <= 0).any(1)] = torch.inf
        return loss, 1 - 1 / x.square()

    solver = LBFGS(torch.tensor([[0.01, 5.0]], dtype=torch.float64), first_step=10.0)
    active = torch.ones(1, dtype=torch.bool)
    for _ in range(100):
        solver.step(*steep(solver.x), active)
    assert not solver.failed.any()
    assert torch.allclose(solver.accepted, torch.ones(1, 2, dtype=torch.float64), atol=1e-2)


def test_inactive_slots_stay_where_they_are():
    scale = torch.logspace(-1, 1, 5).expand(2, 5)
    solver = LBFGS(torch.ones(2, 5), first_step=0.1)
    for _ in range(3):
        solver.step(*quadratic(solver.x, scale), torch.tensor([True, False]))
    assert torch.equal(solver.accepted[1], torch.ones(5))
    assert not torch.equal(solver.accepted[0], torch.ones(5))
    solver.step(*quadratic(solver.x, scale), torch.tensor([False, False]))
    assert torch.equal(solver.x, solver.accepted)


def test_history_shorter_than_the_run_still_converges():
    scale = torch.logspace(-1, 2, 30, dtype=torch.float64).expand(2, 30)
    solver = LBFGS(torch.ones(2, 30, dtype=torch.float64), history_size=3, first_step=0.1)
    active = torch.ones(2, dtype=torch.bool)
    for _ in range(150):
        solver.step(*quadratic(solver.x, scale), active)
    assert (solver.loss < 1e-6).all()


def test_a_slot_that_is_reset_knows_nothing_of_the_problem_before():
    scale = torch.logspace(-1, 1, 10).expand(2, 10)
    active = torch.ones(2, dtype=torch.bool)
    used, fresh = (LBFGS(torch.ones(2, 10), first_step=0.1) for _ in range(2))
    for _ in range(9):
        used.step(*quadratic(used.x, scale), active)
    used.reset(1, torch.full((10,), 3.0))
    fresh.reset(1, torch.full((10,), 3.0))
    before = used.accepted[0].clone()
    for _ in range(9):
        for solver in (used, fresh):
            solver.step(*quadratic(solver.x, scale), active)
    assert torch.equal(used.accepted[1], fresh.accepted[1])
    assert not torch.equal(used.accepted[0], before)


def test_a_problem_that_moves_with_its_curvature_goes_on_as_if_it_had_stayed():
    scale = torch.logspace(-1, 1, 10, dtype=torch.float64).expand(2, 10)
    active = torch.ones(2, dtype=torch.bool)
    stayed, other = (
        LBFGS(torch.ones(2, 10, dtype=torch.float64), first_step=0.1) for _ in range(2)
    )
    for _ in range(9):
        stayed.step(*quadratic(stayed.x, scale), active)
    other.reset(0, stayed.accepted[1], stayed.history.curvature(1))
    other.step(*quadratic(other.x, scale), active)  # evaluates the point at which it left again
    for _ in range(5):
        assert torch.allclose(other.x[0], stayed.x[1], rtol=0, atol=1e-12)
        for solver in (stayed, other):
            solver.step(*quadratic(solver.x, scale), active)


def test_a_preconditioner_is_a_change_of_variables():
    """L-BFGS on z with x = W z, and L-BFGS on x with P = W W, take the same steps."""
    generator = torch.Generator().manual_seed(2)
    W = torch.rand(8, generator=generator, dtype=torch.float64) + 0.2
    scale = torch.logspace(-1, 2, 8, dtype=torch.float64).expand(1, 8)
    active = torch.ones(1, dtype=torch.bool)
    in_x = LBFGS(torch.ones(1, 8, dtype=torch.float64), **PLAIN)
    in_z = LBFGS(1 / W[None], **PLAIN)
    # The rule for the first step depends on the variables' gradient, so both get the same length.
    in_x.first_step = in_z.first_step = 0.01
    in_x._gradient_step = in_z._gradient_step = lambda _: torch.tensor([1e-3]).double()
    for _ in range(12):
        loss, gradient = quadratic(in_x.x, scale)
        in_x.step(loss, gradient, active, W * W * gradient)
        loss, gradient = quadratic(W * in_z.x, scale)
        in_z.step(loss, W * gradient, active)
        assert torch.allclose(in_x.x, W * in_z.x, rtol=0, atol=1e-8)


def test_a_change_of_metric_keeps_what_was_learnt(monkeypatch):
    """The result is as if the new metric had been there from the start, at the same points."""
    generator = torch.Generator().manual_seed(3)
    P, Q = (torch.rand(8, generator=generator, dtype=torch.float64) + 0.2 for _ in range(2))
    scale = torch.logspace(-1, 2, 8, dtype=torch.float64).expand(2, 8)
    active = torch.ones(2, dtype=torch.bool)
    start = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    changed, always = (LBFGS(start, **{**PLAIN, "history_size": 5}) for _ in range(2))
    for _ in range(9):  # more steps than pairs are kept
        always.x.copy_(changed.x)
        loss, gradient = quadratic(changed.x, scale)
        always.step(loss, gradient, active, Q * gradient)
        changed.step(loss, gradient, active, P * gradient)
    slot, kept_pairs = torch.tensor([1]), changed.history
    unused = int(kept_pairs.pairs[1]) % kept_pairs.rows
    for row in (unused, kept_pairs.rows + unused):
        kept_pairs.basis[1, row] = torch.nan  # must not matter
    s, Py, count = kept_pairs.pairs_of(slot)
    assert count == 5
    assert not s[unused].any()
    assert not Py[unused].any()
    assert torch.allclose(Py, P * scale[1] * s)
    kept = [row for row in range(kept_pairs.rows) if row != unused]
    assert torch.allclose((s * scale[1] * s).sum(dim=1)[kept], torch.ones(5, dtype=torch.float64))
    kept_pairs.basis[1, unused] = 0
    monkeypatch.setitem(buffers.ELEMENTS_AT_ONCE, "cpu", 4 * 8)  # in several parts
    yes = torch.tensor(True)
    before = [buffer.clone() for buffer in kept_pairs.buffers]
    kept_pairs.change_metric(slot, lambda Pv: (torch.nan * Pv, torch.nan * Pv), ~yes)
    for found, expected in zip(kept_pairs.buffers, before, strict=True):
        assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7))
    kept_pairs.change_metric(slot, lambda Pv: (Q / P * Pv, Pv / P), yes)
    assert torch.isfinite(kept_pairs.YY).all()
    kept_pairs.basis[1, kept_pairs.rows + unused] = 0
    for _ in range(3):
        always.x.copy_(changed.x)
        loss, gradient = quadratic(changed.x, scale)
        always.step(loss, gradient, active, Q * gradient)
        changed.step(loss, gradient, active, torch.stack([P, Q]) * gradient)
        assert torch.allclose(changed.x[1], always.x[1], rtol=1e-9)
        assert not torch.allclose(changed.x[0], always.x[0], rtol=1e-3)


def test_rounding_of_the_loss_does_not_stop_progress():
    """A good step may lower f by less than its rounding error."""
    scale = torch.logspace(-2, 1, 30, dtype=torch.float64).expand(1, 30)
    start = torch.ones(1, 30, dtype=torch.float64)
    found = []
    for rounding in (0.0, 1e-2):
        solver = LBFGS(start, first_step=0.1, rounding=rounding)
        for _ in range(80):
            value, gradient = quadratic(solver.x, scale)
            solver.step((100 + value).bfloat16().double(), gradient, torch.ones(1) > 0)
        found.append(float(quadratic(solver.accepted, scale)[0]))
    stuck, moving = found
    assert moving < 1e-3 * stuck


def test_a_loss_rises_by_no_more_than_its_rounding():
    values = [1.0, 0.5, 0.504, 0.508, 0.509, 0.4]
    solver = LBFGS(torch.zeros(1, 4), first_step=1e-3, rounding=0.01)
    taken = []
    for value in values:
        solver.step(torch.tensor([value]), torch.ones(1, 4) * value, torch.ones(1) > 0)
        taken.append(round(float(solver.loss[0]), 3))
    assert taken == [1.0, 0.5, 0.504, 0.504, 0.504, 0.4]  # above 0.5, not above the last value
    solver.reset(0, torch.zeros(4))
    solver.step(torch.tensor([7.0]), torch.ones(1, 4), torch.ones(1) > 0)
    assert solver.loss == solver.lowest == 7


def test_steps_stay_within_the_bounds():
    scale = torch.logspace(-1, 1, 10, dtype=torch.float64).expand(1, 10)
    aim = torch.linspace(-0.5, 1.5, 10, dtype=torch.float64)  # partly outside the bounds
    solver = LBFGS(torch.full((1, 10), 0.5, dtype=torch.float64), first_step=0.1, bounds=(0, 1))
    for _ in range(60):
        assert 0 <= solver.x.min() <= solver.x.max() <= 1
        solver.step(*quadratic(solver.x - aim, scale), torch.ones(1, dtype=torch.bool))
    assert torch.allclose(solver.accepted[0], aim.clamp(0, 1), atol=1e-3)


def test_adam_is_torchs():
    start = torch.randn(2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = torch.logspace(-1, 1, 7, dtype=torch.float64).expand(2, 7)
    ours = Adam(start, learning_rate=0.03)
    for _ in range(2):  # each slot again, with another pair
        leaf = start.clone().requires_grad_(True)
        torchs = torch.optim.Adam([leaf], lr=0.03)
        for _ in range(20):
            ours.step(*quadratic(ours.x, scale), torch.ones(2, dtype=torch.bool))
            leaf.grad = quadratic(leaf.detach(), scale)[1]
            torchs.step()
        assert torch.allclose(ours.x, leaf.detach(), atol=1e-12)
        start = start.flip(1)
        for slot in range(2):
            ours.reset(slot, start[slot])
