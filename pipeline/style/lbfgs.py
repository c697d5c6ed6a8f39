"""L-BFGS over a batch of independent problems, each with its own history, step and stop.

All state lies in fixed buffers with the sample first, and one call of ``step`` consumes one
evaluation of the whole batch: a sample whose step failed goes back and tries a shorter one while
its neighbours go on. No operation mixes samples.

The inverse Hessian is applied in the compact form of Byrd, Nocedal, Schnabel ("Representations of
quasi-Newton matrices", 1994, equation 3.1): two products with the history, whatever its length.
With ``curvature_test="absolute", first_step=0, backtracks=0`` the iterates are those of
``torch.optim.LBFGS`` without line search, run on each sample alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor

ARMIJO = 1e-4
"""c_1 of the sufficient decrease condition (Nocedal and Wright 2006, equation 3.4)."""


class LBFGS:
    """Minimise f_b(x_b) for b = 1 ... B, from ``x`` (B, D).

    Evaluate f and its gradient at ``x``, hand both to ``step``, and ``x`` is the next point to
    evaluate. ``accepted`` (B, D) and ``loss`` (B,) are the last point that was taken and its value.

    Args:
        x: (B, D), where to start; not changed.
        history_size: m, the curvature pairs kept per sample.
        learning_rate: length of a quasi-Newton step.
        curvature_test: keep a pair (s, y) if s.y > 1e-6 |s||y| (``cosine``) or s.y > 1e-10
            (``absolute``, as torch does: it depends on the scale of the loss).
        first_step: largest change of an element of ``measure(x)`` in a gradient step, doubled in
            each that follows another; 0: as torch, min(1, 1/|g|_1).
        backtracks: how often a step is shortened until f decreases; 0: every step is taken.
        measure: maps a change (B, D) to what ``first_step`` limits; linear.
    """

    def __init__(
        self,
        x: Tensor,
        *,
        history_size: int = 10,
        learning_rate: float = 1.0,
        curvature_test: str = "cosine",
        first_step: float = 1.0,
        backtracks: int = 6,
        measure: Callable[[Tensor], Tensor] = lambda change: change,
    ) -> None:
        B, D = x.shape
        m = history_size
        self.history_size, self.learning_rate = history_size, learning_rate
        self.curvature_test, self.first_step = curvature_test, first_step
        self.backtracks, self.measure = backtracks, measure
        self.x = x.clone()
        self.accepted = x.clone()
        self.loss = x.new_full((B,), torch.inf)
        self.gradient = torch.zeros_like(x)
        self.direction = torch.zeros_like(x)
        self.t = x.new_zeros(B)  # step length along direction
        self.slope = x.new_zeros(B)  # gradient . direction
        self.S = x.new_zeros(B, m, D)
        self.Y = x.new_zeros(B, m, D)
        self.SY = x.new_zeros(B, m, m, dtype=torch.float64)  # s_i . y_j
        self.YY = x.new_zeros(B, m, m, dtype=torch.float64)  # y_i . y_j
        self.gamma = x.new_ones(B)  # H_0 = gamma I
        self.pairs = torch.zeros(B, dtype=torch.long, device=x.device)  # written since last reset
        self.tries = torch.zeros_like(self.pairs)  # shortenings of the present step
        self.descents = torch.zeros_like(self.pairs)  # gradient steps in a row
        self.steps = torch.zeros_like(self.pairs)  # points taken, the start included
        self.stopped = torch.zeros(B, dtype=torch.bool, device=x.device)  # cannot go on
        self.failed = torch.zeros_like(self.stopped)  # met a value that is not finite

    def step(self, loss: Tensor, gradient: Tensor, active: Tensor) -> None:
        """Take the evaluation at ``x``: loss (B,), gradient (B, D). Inactive samples stay put.

        ``active`` (B,) bool. Values of inactive or failing samples may be anything.
        """
        active = active & ~self.stopped
        first = self.steps == 0
        finite = torch.isfinite(loss) & torch.isfinite(gradient).all(dim=1)
        enough = first | (loss <= self.loss + ARMIJO * self.t * self.slope)
        accept = active & finite & (enough if self.backtracks else True)
        reject = active & ~accept

        new_gradient = torch.where(accept[:, None], gradient, self.gradient)
        s = torch.where(accept[:, None], self.x - self.accepted, 0)
        y = new_gradient - self.gradient
        self._remember(s, y, new_gradient, accept & ~first)

        trial_t = self._shorter(loss, finite)
        self.accepted = torch.where(accept[:, None], self.x, self.accepted)
        self.loss = torch.where(accept, loss, self.loss)
        self.gradient = new_gradient
        self.steps += accept
        self.tries = torch.where(reject, self.tries + 1, 0)
        exhausted = reject & (self.tries > self.backtracks)
        hopeless = (reject & first) | (exhausted & (self.pairs == 0))
        self.failed |= hopeless & ~finite | (exhausted & ~finite & (self.backtracks == 0))
        self.stopped |= hopeless
        self.stopped |= self.failed
        restart = exhausted & ~self.stopped
        self.pairs = torch.where(restart, 0, self.pairs)
        self.tries = torch.where(restart, 0, self.tries)
        self.descents = torch.where(restart, 0, self.descents)

        self._choose_direction(renew=accept | restart, first=accept & first)
        self.t = torch.where(reject & ~restart, trial_t, self.t)
        moving = (active & ~self.stopped)[:, None]
        self.x = torch.where(
            moving, self.accepted + self.t[:, None] * self.direction, self.accepted
        )

    def _remember(self, s: Tensor, y: Tensor, gradient: Tensor, accept: Tensor) -> None:
        """Write (s, y) where its curvature is good; refresh the products with the history."""
        sy, yy = (s * y).sum(dim=1), (y * y).sum(dim=1)
        least = s.norm(dim=1) * yy.sqrt() * 1e-6 if self.curvature_test == "cosine" else 1e-10
        good = accept & (sy > least)
        slot = self.pairs % self.history_size
        sample = torch.arange(len(s), device=s.device)
        self.S[sample, slot] = torch.where(good[:, None], s, self.S[sample, slot])
        self.Y[sample, slot] = torch.where(good[:, None], y, self.Y[sample, slot])
        self.gamma = torch.where(good, sy / torch.where(good, yy, 1), self.gamma)
        self.pairs = self.pairs + good

        vectors = torch.stack([self.S[sample, slot], self.Y[sample, slot], gradient], dim=2)
        with_S = torch.bmm(self.S, vectors).double()  # (B, m, 3)
        with_Y = torch.bmm(self.Y, vectors).double()
        self.SY[sample, :, slot] = with_S[:, :, 1]
        self.SY[sample, slot, :] = with_Y[:, :, 0]
        self.YY[sample, :, slot] = with_Y[:, :, 1]
        self.YY[sample, slot, :] = with_Y[:, :, 1]
        self.Sg, self.Yg = with_S[:, :, 2], with_Y[:, :, 2]

    def _quasi_newton(self) -> Tensor:
        """-H g, by the compact form; -gamma g where a sample has no history. (B, D)."""
        m = self.history_size
        count = self.pairs.clamp(max=m)[:, None]  # (B, 1)
        k = torch.arange(m, device=self.x.device)
        oldest_first = (self.pairs[:, None] - count + k) % m  # (B, m) slots
        valid = (k < count).double()  # (B, m)

        def ordered(products: Tensor) -> Tensor:
            rows = products.gather(1, oldest_first[:, :, None].expand_as(products))
            square = rows.gather(2, oldest_first[:, None, :].expand_as(products))
            return square * valid[:, :, None] * valid[:, None, :]

        SY, YY = ordered(self.SY), ordered(self.YY)
        Sg = (self.Sg.gather(1, oldest_first) * valid)[:, :, None]
        Yg = (self.Yg.gather(1, oldest_first) * valid)[:, :, None]
        gamma = self.gamma.double()[:, None, None]
        R = torch.triu(SY) + torch.diag_embed(1 - valid)
        u = torch.linalg.solve_triangular(R, Sg, upper=True)
        v = torch.diagonal(SY, dim1=1, dim2=2)[:, :, None] * u + gamma * (YY @ u - Yg)
        p = torch.linalg.solve_triangular(R.transpose(1, 2), v, upper=False)

        def by_slot(coefficients: Tensor) -> Tensor:
            empty = torch.zeros_like(valid)
            values = coefficients.squeeze(2) * valid
            return empty.scatter(1, oldest_first, values).to(self.x.dtype)[:, None, :]

        H_g = self.gamma[:, None] * self.gradient
        H_g = H_g + torch.bmm(by_slot(p), self.S).squeeze(1)
        H_g = H_g - torch.bmm(by_slot(gamma * u), self.Y).squeeze(1)
        return -H_g

    def _choose_direction(self, renew: Tensor, first: Tensor) -> None:
        """A new direction and step length for the samples of ``renew``; the others keep theirs."""
        direction = self._quasi_newton()
        downhill = (self.gradient * direction).sum(dim=1) < 0
        by_gradient = ~downhill | first | ((self.pairs == 0) if self.first_step else False)
        self.pairs = torch.where(renew & ~downhill, 0, self.pairs)
        direction = torch.where(by_gradient[:, None], -self.gradient, direction)
        slope = (self.gradient * direction).sum(dim=1)
        self.stopped |= renew & ~(slope < 0)  # the gradient is zero
        t = torch.full_like(self.t, self.learning_rate)
        if bool((renew & by_gradient).any()):
            t = torch.where(by_gradient, self._gradient_step(), t)
        self.descents = torch.where(
            renew, torch.where(by_gradient, self.descents + 1, 0), self.descents
        )
        self.direction = torch.where(renew[:, None], direction, self.direction)
        self.slope = torch.where(renew, slope, self.slope)
        self.t = torch.where(renew, t, self.t)

    def _gradient_step(self) -> Tensor:
        if self.first_step:
            largest = self.measure(self.gradient).abs().amax(dim=1)
            step = self.first_step * 2.0 ** self.descents.clamp(max=10)
            return step / largest.clamp_min(torch.finfo(largest.dtype).tiny)
        return (1 / self.gradient.abs().sum(dim=1)).clamp(max=1) * self.learning_rate

    def _shorter(self, loss: Tensor, finite: Tensor) -> Tensor:
        """Minimum of the parabola through f, its slope and the failed point, kept in [0.1, 0.5] t.

        Nocedal and Wright 2006, equation 3.58.
        """
        curvature = 2 * (loss - self.loss - self.t * self.slope)
        t = torch.where(
            finite & (curvature > 0), -self.slope * self.t**2 / curvature, 0.25 * self.t
        )
        return torch.minimum(torch.maximum(t, 0.1 * self.t), 0.5 * self.t)


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980) with the same face as ``LBFGS``. x: (B, D)."""

    def __init__(self, x: Tensor, *, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.x = x.clone()
        self.accepted = x.clone()
        self.loss = x.new_full((len(x),), torch.inf)
        self.m, self.v = torch.zeros_like(x), torch.zeros_like(x)
        self.steps = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.stopped = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.failed = torch.zeros_like(self.stopped)

    def step(self, loss: Tensor, gradient: Tensor, active: Tensor) -> None:
        """Take the evaluation at ``x``: loss (B,), gradient (B, D). Inactive samples stay put."""
        active = active & ~self.stopped
        finite = torch.isfinite(loss) & torch.isfinite(gradient).all(dim=1)
        self.failed |= active & ~finite
        self.stopped |= self.failed
        moving = active & finite
        row = moving[:, None]
        gradient = torch.where(row, gradient, 0)
        self.accepted = torch.where(row, self.x, self.accepted)
        self.loss = torch.where(moving, loss, self.loss)
        self.steps += moving
        self.m = torch.where(row, torch.lerp(gradient, self.m, 0.9), self.m)
        self.v = torch.where(row, torch.lerp(gradient.square(), self.v, 0.999), self.v)
        count = self.steps.clamp(min=1)[:, None].to(self.x.dtype)
        m, v = self.m / (1 - 0.9**count), self.v / (1 - 0.999**count)
        change = self.learning_rate * m / (v.sqrt() + 1e-8)
        self.x = torch.where(row, self.accepted - change, self.accepted)
