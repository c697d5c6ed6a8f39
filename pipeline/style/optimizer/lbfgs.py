"""L-BFGS over a batch of independent problems, each with its own history, step length and stop.

``step`` consumes one evaluation of the whole batch. A slot whose step failed goes back and tries a
shorter one while the others go on. No operation mixes slots.

All state is in fixed buffers, slots first, and is updated in place. Nothing here reads a value back
from the device, so a CUDA graph can record a step. With P = 1 and ``curvature_test="absolute",
first_step=0, backtracks=0`` the iterates are those of ``torch.optim.LBFGS`` without line search,
run on each slot alone.
"""

import math

import torch
from torch import Tensor

from pipeline.style.hardware import gpu_passes
from pipeline.style.optimizer.curvature import Curvature, CurvatureHistory

ARMIJO = 1e-4
"""c_1 of the sufficient decrease condition (Nocedal and Wright 2006, equation 3.4)."""


class LBFGS:
    """Minimises f_b(x_b) for b = 1 ... B, from ``x`` (B, D).

    Evaluate f and its gradient at ``x`` and pass both to ``step``; ``x`` is then the next point to
    evaluate.

    Args:
        x: where to start (B, D); not changed.
        history_size: m, the curvature pairs kept per slot.
        learning_rate: length of a quasi-Newton step.
        curvature_test: keep a pair (s, y) if s.y > 1e-6 |s||y| (``cosine``) or s.y > 1e-10
            (``absolute``, as torch does; it depends on the scale of the loss).
        first_step: largest change of an element of x in a gradient step, doubled for each gradient
            step in a row. With 0 the step is torch's, min(1, 1/|g|_1).
        backtracks: how often a step is shortened until f decreases, up to ``rounding``. With 0
            every step is taken.
        bounds: least and greatest value of x's elements; steps are clamped to them.
        reach: factor of H_0 over gamma P, where gamma = s.y / y.P y for the last pair. That is the
            shorter of Barzilai and Borwein's two step lengths (1988), which is timid where P is
            good.
        rounding: relative rounding error of f. A point above the lowest by no more than this counts
            as no worse. Otherwise a network in half precision stops while steps still pay, because
            a good step lowers f by less than its rounding error.

    Attributes:
        x: the next point to evaluate (B, D).
        accepted: the last accepted point (B, D).
        loss: f at ``accepted`` (B,).
        lowest: the lowest accepted f (B,).
        steps: accepted points (B,), the start included.
        stopped: (B,) bool, whether a slot cannot go on.
        failed: (B,) bool, whether a slot stopped because of values that are not finite.
        history: the curvature pairs.
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
        bounds: tuple[float, float] | None = None,
        reach: float = 1.0,
        rounding: float = 0.0,
    ) -> None:
        B = len(x)
        self.learning_rate, self.first_step = learning_rate, first_step
        self.backtracks, self.bounds, self.rounding = backtracks, bounds, rounding
        self.history = CurvatureHistory(x, history_size, curvature_test=curvature_test, reach=reach)
        self.x = x.clone()
        self.accepted = x.clone()
        self.loss = x.new_full((B,), torch.inf)
        self.lowest = self.loss.clone()
        self.t = x.new_zeros(B)  # step length along the direction
        self.slope = x.new_zeros(B)  # gradient . (x - accepted) / t
        self.by_gradient = torch.ones(B, dtype=torch.bool, device=x.device)
        self.tries = torch.zeros(B, dtype=torch.long, device=x.device)  # shortenings of this step
        self.descents = torch.zeros_like(self.tries)  # gradient steps in a row
        self.steps = torch.zeros_like(self.tries)
        self.stopped = torch.zeros_like(self.by_gradient)
        self.failed = torch.zeros_like(self.by_gradient)

    def reset(self, slot: int, x: Tensor, curvature: Curvature | None = None) -> None:
        """Begin a new problem in a slot, at ``x`` (D,), with a known ``curvature`` if given."""
        self.x[slot] = x
        self.accepted[slot] = x
        self.loss[slot] = self.lowest[slot] = torch.inf
        self.by_gradient[slot] = True
        counts = (self.tries, self.descents, self.steps, self.stopped, self.failed)
        for buffer in (self.t, self.slope, *counts):
            buffer[slot] = 0
        self.history.reset(slot, curvature)

    def step(
        self, loss: Tensor, gradient: Tensor, active: Tensor, preconditioned: Tensor | None = None
    ) -> None:
        """Take the evaluation at ``x`` and move ``x`` on. Inactive slots stay where they are.

        Args:
            loss: f (B,).
            gradient: g (B, D). The values of inactive or failing slots may be anything.
            active: (B,) bool.
            preconditioned: P g (B, D) for a symmetric positive definite P that only
                ``CurvatureHistory.change_metric`` changes; g itself if not given.
        """
        history = self.history
        active = active & ~self.stopped
        first = self.steps == 0
        finite = torch.isfinite(loss) & torch.isfinite(gradient.sum(dim=1))
        bound = self.lowest + self.rounding * self.lowest.abs()
        enough = first | (loss <= bound + ARMIJO * self.t * self.slope)
        accept = active & finite & (enough if self.backtracks else True)
        reject = active & ~accept

        trial_t = self._shorter(loss, finite)
        Pg = gradient if preconditioned is None else preconditioned
        products, largest = history.store(self.x, self.accepted, gradient, Pg, accept, first)
        self.loss.copy_(torch.where(accept, loss, self.loss))
        self.lowest.copy_(torch.minimum(self.lowest, self.loss))
        self.steps += accept
        self.tries.copy_(torch.where(reject, self.tries + 1, 0))
        exhausted = reject & (self.tries > self.backtracks)
        hopeless = (reject & first) | (exhausted & (history.pairs == 0))
        self.failed |= hopeless & ~finite | (exhausted & ~finite & (self.backtracks == 0))
        self.stopped |= hopeless | self.failed
        restart = exhausted & ~self.stopped
        for count in (history.pairs, self.tries, self.descents):
            count.masked_fill_(restart, 0)

        coefficients = self._direction(
            products, largest, renew=accept | restart, first=accept & first
        )
        self.t.copy_(torch.where(reject & ~restart, trial_t, self.t))
        self._move(coefficients, active & ~self.stopped)

    def _direction(self, products: Tensor, largest: Tensor, renew: Tensor, first: Tensor) -> Tensor:
        """Choose the direction and, where ``renew``, a new step length.

        Args:
            products: basis . g (B, K).
            largest: largest magnitude in P g (B,).
            renew: (B,) bool, false where a failed step is tried again.
            first: (B,) bool, true where the start was accepted.

        Returns:
            Coefficients (B, K) in the basis of -H g, or of -P g where -H g does not descend.
        """
        history = self.history
        coefficients = history.direction(products)
        uphill = ~((coefficients * products).sum(dim=1) < 0)
        fresh = (history.pairs == 0) & (first | bool(self.first_step))
        self.by_gradient.copy_(torch.where(renew, uphill | fresh, self.by_gradient))
        history.pairs.masked_fill_(renew & uphill, 0)
        steepest = torch.zeros_like(coefficients)
        steepest[:, -1] = -1
        coefficients = torch.where(self.by_gradient[:, None], steepest, coefficients)
        slope = (coefficients * products).sum(dim=1)
        self.stopped |= renew & ~(slope < 0)  # the gradient is zero
        t = torch.where(self.by_gradient, self._gradient_step(largest), self.learning_rate)
        self.descents.copy_(
            torch.where(renew, torch.where(self.by_gradient, self.descents + 1, 0), self.descents)
        )
        self.slope.copy_(torch.where(renew, slope.to(self.slope), self.slope))
        self.t.copy_(torch.where(renew, t.to(self.t), self.t))
        return coefficients

    def _gradient_step(self, largest: Tensor) -> Tensor:
        """Return the length (B,) of a step along -P g; largest: see ``_direction``."""
        if self.first_step:
            step = self.first_step * 2.0 ** self.descents.clamp(max=10)
            return step / largest.clamp_min(torch.finfo(largest.dtype).tiny)
        return (1 / self.history.gradient.abs().sum(dim=1)).clamp(max=1) * self.learning_rate

    def _move(self, coefficients: Tensor, moving: Tensor) -> None:
        """Set x to accepted + t (coefficients . basis), within the bounds, where ``moving``."""
        low, high = self.bounds or (-math.inf, math.inf)
        basis, gradient = self.history.basis, self.history.gradient
        change = gpu_passes.move(
            basis, coefficients, self.accepted, gradient, self.t, moving, self.x, (low, high)
        )
        if change is None:
            # x = accepted + steps . basis; a slot that does not move takes steps of 0.
            steps = torch.where(moving[:, None], self.t[:, None] * coefficients, 0).to(self.x)
            ahead = self.x[:, None]
            torch.baddbmm(self.accepted[:, None], steps[:, None], basis, out=ahead)
            self.x.clamp_(low, high)
            change = torch.linalg.vecdot(self.x - self.accepted, gradient)
        if self.bounds is not None:
            self.slope.copy_(change / self.t)

    def _shorter(self, loss: Tensor, finite: Tensor) -> Tensor:
        """Return a shorter step length (B,) for a step that failed.

        It is the minimum of the parabola through f, its slope and f at the failed point, clamped to
        [0.1 t, 0.5 t] (Nocedal and Wright 2006, equation 3.58).
        """
        curvature = 2 * (loss - self.loss - self.t * self.slope)
        t = torch.where(
            finite & (curvature > 0), -self.slope * self.t**2 / curvature, 0.25 * self.t
        )
        return torch.minimum(torch.maximum(t, 0.1 * self.t), 0.5 * self.t)
