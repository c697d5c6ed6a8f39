"""The preconditioner: its initial metric, and what it learns."""

import pytest
import torch

from pipeline.style.optimizer import buffers, learning
from pipeline.style.optimizer.learning import learnt_metric
from pipeline.style.optimizer.precondition import Metric, Preconditioner, color_covariance
from tests.conftest import picture

SIZES = [(32, 32), (33, 47)]

YES = torch.tensor(True)


def ready(size, exponent=0.75):
    """Return a preconditioner of two slots, each with a picture's colours."""
    P = Preconditioner(size, 2, exponent, torch.zeros(1, dtype=torch.float64))
    for slot in range(2):
        P.put(slot, color_covariance(picture(slot, 40, 40)).double())
    return P


def at(slot):
    """Return a slot's index as a tensor."""
    return torch.tensor([slot])


def noise(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def everywhere(size):
    """Return the D^(1/2) of a metric that is the same everywhere."""
    return torch.ones(1, *size, dtype=torch.float64)


def steps_of(metric, size, count):
    """Draw pairs (s, y) with s = Q y for the Q of this metric."""
    Q = ready(size)
    Q.put(0, metric=metric)
    changes = [noise(seed, 2, 3, *size) for seed in range(count)]
    return [(Q(y)[0], y[0]) for y in changes]


def learn(P, slot, steps):
    """Learn from steps in the form in which L-BFGS keeps them."""
    s, y = (torch.stack(list(vectors)) for vectors in zip(*steps, strict=True))
    Py = torch.cat([P(torch.stack([one, one]))[slot] for one in y]).view_as(y)
    root = (s * y).sum((1, 2, 3)).sqrt()[:, None]
    return learnt_metric(P, at(slot), s.flatten(1) / root, Py.flatten(1) / root)


def one_step(size):
    """Draw a pair (s, y) with s.y > 0."""
    s, y = noise(1, 3, *size), noise(2, 3, *size)
    return s, y * torch.sign((s * y).sum()) * 1e-3


def check_symmetric_and_positive(P):
    a, b = (noise(seed, 2, 3, *P.size) for seed in (20, 21))
    assert torch.allclose((P(a) * b).sum((1, 2, 3)), (a * P(b)).sum((1, 2, 3)))
    assert ((P(a) * a).sum((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_it_is_symmetric_and_positive_before_and_after_it_learns(size):
    P = ready(size)
    check_symmetric_and_positive(P)
    P.change(at(1), learn(P, 1, [one_step(size)]), YES)
    check_symmetric_and_positive(P)


def test_without_an_exponent_or_colors_it_is_the_identity():
    P = Preconditioner((33, 47), 1, 0.0, torch.zeros(1, dtype=torch.float64))
    P.put(0)
    image = noise(0, 1, 3, 33, 47)
    assert torch.allclose(P(image), image)


def test_it_moves_coarse_structure_and_the_styles_colors_first():
    P = Preconditioner((64, 64), 1, 0.75, torch.zeros(1))
    red = torch.zeros(3, 3)
    red[0, 0] = 1
    P.put(0, red)

    def gain(channel, frequency):
        wave = torch.zeros(1, 3, 64, 64)
        wave[0, channel] = torch.cos(torch.arange(64) * 2 * torch.pi * frequency / 64)
        return float(P(wave)[0, channel].norm() / wave.norm())

    assert gain(0, 2) == pytest.approx(8 * gain(0, 8), rel=0.01)  # amplitude 1/f^0.75, squared
    assert gain(0, 2) == pytest.approx(gain(1, 2) / 0.01, rel=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_the_inverse_hessian_is_found_if_it_is_of_that_form(size, monkeypatch):
    P = ready(size)
    rings = len(P.natural)
    factors = noise(5, rings, 3, 3)
    Q = factors @ factors.mT + 0.1 * torch.eye(3)
    Q /= torch.diagonal(Q, dim1=1, dim2=2).mean()
    steps = steps_of(Metric(Q, everywhere(size)), size, 10)
    found = learn(P, 1, steps)
    off = torch.linalg.eigvals(torch.linalg.solve(Q, found.rings)).real
    before = torch.linalg.eigvals(torch.linalg.solve(Q, P.rings[1])).real
    assert off.max() / off.min() < 0.1 * before.max() / before.min()
    monkeypatch.setattr(learning, "PRIOR", 0.0)
    found = learn(P, 1, steps)
    assert torch.allclose(found.rings, Q, rtol=1e-6)
    assert torch.allclose(found.root, everywhere(size), atol=1e-6)


def test_where_steps_are_long_is_learnt(monkeypatch):
    """The inverse Hessian is nine times as large on the left as on the right."""
    size = (48, 64)
    P = ready(size)
    root = everywhere(size)
    root[:, :, 32:] /= 3
    steps = steps_of(Metric(P.rings[1], root), size, 10)
    for _ in range(4):
        P.change(at(1), learn(P, 1, steps), YES)
    found = P.metric(1).root[0]
    left, right = found[:, 8:24].mean(), found[:, 40:56].mean()
    assert left / right == pytest.approx(3, rel=0.15)
    old, new = (
        torch.cat([each(torch.stack([y, y]))[1] for _, y in steps]) for each in (ready(size), P)
    )
    s = torch.cat([s for s, _ in steps])

    def off(moved):
        return float(1 - (moved * s).sum() / (moved.norm() * s.norm()))

    assert off(new) < 0.1 * off(old)


def test_steps_without_some_frequencies_or_colors_still_give_a_metric():
    P = ready((32, 32))
    flat = torch.ones(3, 32, 32, dtype=torch.float64)
    grey = noise(3, 1, 32, 32).expand(3, -1, -1)
    for image in (flat, grey):
        metric = learn(P, 0, [(image, image)] * 3)
        assert torch.isfinite(metric.rings).all()
        assert (torch.linalg.eigvalsh(metric.rings) > 0).all()
        assert torch.isfinite(metric.root).all()
        assert (metric.root > 0).all()


def test_vectors_are_converted_from_the_old_metric_to_the_new():
    size = (33, 47)
    P = ready(size)
    y = noise(4, 2, 3, *size)
    old = P(y)
    change = P.change(at(1), learn(P, 1, [one_step(size)]), YES)
    new = P(y)
    assert torch.equal(new[0], old[0])
    assert not torch.allclose(new[1], old[1])
    for found, expected in zip(change(old[1:]), (new[1:], y[1:]), strict=True):
        assert torch.allclose(found, expected)
    elsewhere = ready(size)
    elsewhere.put(0, metric=P.metric(1))
    assert torch.allclose(elsewhere(y.flip(0))[0], new[1])


def state_of(P):
    return [each.clone() for each in (P.rings, P.inverse, P.root, P.table)]


def test_a_metric_that_is_not_taken_changes_nothing():
    size = (33, 47)
    P = ready(size)
    P.change(at(1), learn(P, 1, [one_step(size)]), YES)
    before = state_of(P)
    unknown = Metric(P.rings[1] * torch.nan, P.root[1] * torch.nan)
    P.change(at(1), unknown, ~YES)
    for found, expected in zip(state_of(P), before, strict=True):
        assert torch.equal(found, expected)


def test_learning_in_parts_and_with_rows_without_a_step(monkeypatch):
    size = (33, 47)
    P = ready(size)
    steps = [noise(seed, 3, *size) for seed in range(5)]
    vectors = torch.stack(steps).flatten(1)
    expected = learnt_metric(P, at(1), vectors, 2 * vectors)
    nothing = torch.zeros_like(vectors[:2])
    vectors = torch.cat([nothing, vectors, nothing])
    monkeypatch.setitem(buffers.ELEMENTS_AT_ONCE, "cpu", 2 * vectors.shape[1])
    found = learnt_metric(P, at(1), vectors, 2 * vectors)
    assert torch.allclose(found.rings, expected.rings)
    assert torch.allclose(found.root, expected.root)
