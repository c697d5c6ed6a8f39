"""L-BFGS over a batch of independent problems, each with its own history, step and stop.

All state lies in fixed buffers with the sample first and is updated in place; ``step`` consumes one
evaluation of the whole batch and never asks the device for a value, so that a CUDA graph can hold
it. A sample whose step failed goes back and tries a shorter one while its neighbours go on. No
operation mixes samples.

The directions are those of Byrd, Nocedal, Schnabel ("Representations of quasi-Newton matrices",
1994, equation 3.1) with H_0 = reach gamma P for a preconditioner P. They lie in the span of the
kept steps s_i, the kept P y_i and P g: what is computed is a handful of coefficients from the
vectors' inner products, so a step reads the history twice, whatever its length. With P = 1 and
``curvature_test="absolute", first_step=0, backtracks=0`` the iterates are those of
``torch.optim.LBFGS`` without line search, run on each sample alone.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.style.hardware import gpu_passes
from pipeline.style.hardware.gpu_passes import Remembered

ARMIJO = 1e-4
"""c_1 of the sufficient decrease condition (Nocedal and Wright 2006, equation 3.4)."""

AT_A_TIME = {"cpu": 2**22, "cuda": 9 * 2**20}
"""Elements of kept vectors that are worked on together, when P is learnt. On a GPU the twelve P y_i
and P g of an image of 512 px; on a CPU what memory is kept for, see ``host_memory``: larger tensors
are given back to the system and faulted in anew."""

PARTS = 256
"""Of a long inner product on a GPU, at most, so that all of its processors have work."""

Curvature = tuple[Tensor, ...]
"""The kept pairs of a sample and their inner products."""


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
        first_step: largest change of an element of x in a gradient step, doubled in each that
            follows another; 0: as torch, min(1, 1/|g|_1).
        backtracks: how often a step is shortened until f decreases, up to ``rounding``; 0: every
            step is taken.
        bounds: least and greatest value of x's elements; steps are cut off there.
        reach: of H_0 over gamma P, gamma = s.y / y.P y for the last pair: that is the shorter one
            of Barzilai and Borwein's two step lengths (1988), timid where P is good.
        rounding: of f, relative; a point counts as no worse that lies so little above the lowest.
            Without it a network in half precision comes to a stand where steps still pay: the
            decrease of a good one is less than the rounding of its f.
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
        B, D = x.shape
        m = history_size
        self.history_size, self.learning_rate = history_size, learning_rate
        self.curvature_test, self.first_step = curvature_test, first_step
        self.backtracks, self.bounds = backtracks, bounds
        self.reach, self.rounding = reach, rounding
        self.rows = m + 1  # one more than is kept: a pair is written before it is judged
        self.x = x.clone()
        self.accepted = x.clone()
        self.loss = x.new_full((B,), torch.inf)
        self.lowest = self.loss.clone()
        # In memory the samples lie side by side, so that parts of all make one batch of products.
        self.differences = x.new_zeros(2, B, D).transpose(0, 1)  # the last y, then g
        self.gradient = self.differences[:, 1]
        # s_i, then P y_i, then P g
        self.basis = x.new_zeros(2 * self.rows + 1, B, D).transpose(0, 1)
        self.SY = x.new_zeros(B, self.rows, self.rows, dtype=torch.float64)  # s_i . y_j
        self.YY = x.new_zeros(B, self.rows, self.rows, dtype=torch.float64)  # y_i . P y_j
        self.gamma = x.new_ones(B, dtype=torch.float64)
        self.t = x.new_zeros(B)  # step length along the direction
        self.slope = x.new_zeros(B)  # gradient . (x - accepted) / t
        self.by_gradient = torch.ones(B, dtype=torch.bool, device=x.device)
        self.pairs = torch.zeros(B, dtype=torch.long, device=x.device)  # kept since last reset
        self.tries = torch.zeros_like(self.pairs)  # shortenings of the present step
        self.descents = torch.zeros_like(self.pairs)  # gradient steps in a row
        self.steps = torch.zeros_like(self.pairs)  # points taken, the start included
        self.stopped = torch.zeros_like(self.by_gradient)  # cannot go on
        self.failed = torch.zeros_like(self.by_gradient)  # met a value that is not finite
        self.sample = torch.arange(B, device=x.device)
        self.parts = math.gcd(D, PARTS) if x.is_cuda else 1
        self.upper = torch.ones_like(self.SY[0]).triu()

    def reset(self, sample: int, x: Tensor, curvature: Curvature | None = None) -> None:
        """Begin a new problem in place of ``sample``, at ``x`` (D,), knowing a ``curvature``."""
        self.x[sample] = x
        self.accepted[sample] = x
        self.loss[sample] = self.lowest[sample] = torch.inf
        self.by_gradient[sample] = True
        sums = (self.gradient, self.basis, self.SY, self.YY, self.t, self.slope)
        counts = (self.pairs, self.tries, self.descents, self.steps, self.stopped, self.failed)
        for buffer in (*sums, *counts):
            buffer[sample] = 0
        self.gamma[sample] = 1
        for buffer, known in zip(self._curvature, curvature or (), strict=False):
            buffer[sample] = known

    def curvature(self, sample: int) -> Curvature:
        """What has been learnt of f_b, for a problem that differs from it by rounding only."""
        return tuple(buffer[sample].clone() for buffer in self._curvature)

    def pairs_of(self, sample: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a sample (1,) keeps: s / sqrt(s.y) and P y / sqrt(s.y), (rows, D) each, in no
        order; and how many pairs these are, (). Rows without one are zero, whatever lies there.

        The shapes are always the same and the index is on the device, for a CUDA graph's sake.
        """
        kept = self._kept(sample)
        sy = torch.diagonal(one_of(self.SY, sample))
        scale = torch.where(kept, sy, 1).rsqrt().to(self.x)[:, None]
        s, Py = (
            one_of(self.basis[:, first : first + self.rows], sample)
            .mul_(scale)
            .masked_fill_(~kept[:, None], 0)
            for first in (0, self.rows)
        )
        return s, Py, kept.sum()

    def change_metric(
        self, sample: Tensor, convert: Callable[[Tensor], tuple[Tensor, Tensor]], taken: Tensor
    ) -> None:
        """P becomes another for a sample (1,); what has been learnt stays.

        Args:
            convert: of n vectors P v (n, D) as many Q v for the new metric Q, and v.
            taken: () bool. Where it is false nothing changes, to the bit.
        """
        rows = self.rows
        moved = one_of(self.basis[:, rows:], sample)  # P y_i, then P g
        products = moved.new_zeros(rows + 1, rows + 1, dtype=torch.float64)
        for start in range(0, rows + 1, at_a_time(moved)):
            part = moved[start : start + at_a_time(moved)]
            end = start + len(part)
            Qv, v = convert(part)
            torch.where(taken, Qv, part, out=part)
            found = self._inner(moved[:end], v)
            products[:end, start:end], products[start:end, :end] = found, found.T
        self.basis[:, rows:].index_copy_(0, sample, moved[None])
        kept = self._kept(sample)
        YY = ((products + products.T) / 2)[:rows, :rows]
        YY = torch.where(kept[:, None] & kept, YY, 0)
        pairs = self.pairs.index_select(0, sample)
        last = (pairs - 1) % rows
        sy, yy = (
            torch.diagonal(matrix).index_select(0, last) for matrix in (one_of(self.SY, sample), YY)
        )
        gamma = torch.where((pairs > 0) & (yy > 0), sy / yy, 1)[0]
        for buffer, new in ((self.YY, YY), (self.gamma, gamma)):
            new = torch.where(taken, new, one_of(buffer, sample))
            buffer.index_copy_(0, sample, new[None])

    def _kept(self, sample: Tensor) -> Tensor:
        """Which rows hold a kept pair of a sample (1,): (rows,) bool."""
        pairs = self.pairs.index_select(0, sample)
        age = (pairs - 1 - torch.arange(self.rows, device=pairs.device)) % self.rows
        return age < pairs.clamp(max=self.history_size)

    def _inner(self, u: Tensor, v: Tensor) -> Tensor:
        """u_i . v_j in float64, (n, D) and (m, D) -> (n, m)."""
        of_u, of_v = (
            vectors.view(len(vectors), self.parts, -1).transpose(0, 1) for vectors in (u, v)
        )
        return torch.bmm(of_u, of_v.mT).double().sum(dim=0)

    @property
    def _curvature(self) -> tuple[Tensor, ...]:
        return self.basis, self.SY, self.YY, self.gamma, self.pairs

    def step(
        self, loss: Tensor, gradient: Tensor, active: Tensor, preconditioned: Tensor | None = None
    ) -> None:
        """Take the evaluation at ``x``. Inactive samples stay put.

        Args:
            loss: (B,).
            gradient: g (B, D). Values of inactive or failing samples may be anything.
            active: (B,) bool.
            preconditioned: P g (B, D) for a symmetric positive definite P that only
                ``change_metric`` changes; g itself if not given.
        """
        active = active & ~self.stopped
        first = self.steps == 0
        finite = torch.isfinite(loss) & torch.isfinite(gradient.sum(dim=1))
        bound = self.lowest + self.rounding * self.lowest.abs()
        enough = first | (loss <= bound + ARMIJO * self.t * self.slope)
        accept = active & finite & (enough if self.backtracks else True)
        reject = active & ~accept

        trial_t = self._shorter(loss, finite)
        products, largest = self._remember(
            gradient, gradient if preconditioned is None else preconditioned, accept, first
        )
        self.loss.copy_(torch.where(accept, loss, self.loss))
        self.lowest.copy_(torch.minimum(self.lowest, self.loss))
        self.steps += accept
        self.tries.copy_(torch.where(reject, self.tries + 1, 0))
        exhausted = reject & (self.tries > self.backtracks)
        hopeless = (reject & first) | (exhausted & (self.pairs == 0))
        self.failed |= hopeless & ~finite | (exhausted & ~finite & (self.backtracks == 0))
        self.stopped |= hopeless | self.failed
        restart = exhausted & ~self.stopped
        for count in (self.pairs, self.tries, self.descents):
            count.masked_fill_(restart, 0)

        coefficients = self._direction(
            products, largest, renew=accept | restart, first=accept & first
        )
        self.t.copy_(torch.where(reject & ~restart, trial_t, self.t))
        self._move(coefficients, active & ~self.stopped)

    def _remember(
        self, gradient: Tensor, Pg: Tensor, accept: Tensor, first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take the point, g, P g and the pair (s, y), if its curvature is good.

        Returns basis . g (B, K), and the largest magnitude of P g (B,).
        """
        rows, slot = self.rows, self.pairs % self.rows
        found = gpu_passes.remember(
            self.basis, self.differences, self.accepted, self.x, gradient, Pg, accept, slot
        ) or self._remembered(gradient, Pg, accept, slot)
        sy, yy = found.y[self.sample, slot], found.y[self.sample, rows + slot]
        cosine = self.curvature_test == "cosine"
        least = (found.ss * found.yy).sqrt() * 1e-6 if cosine else 1e-10
        good = accept & ~first & (sy > least)
        self.SY[self.sample, :, slot] = found.y[:, :rows]
        self.YY[self.sample, :, slot] = found.y[:, rows : 2 * rows]
        self.YY[self.sample, slot, :] = found.y[:, rows : 2 * rows]
        self.gamma.copy_(torch.where(good, sy / torch.where(good, yy, 1), self.gamma))
        self.pairs += good
        return found.g, found.largest

    def _remembered(self, gradient: Tensor, Pg: Tensor, accept: Tensor, slot: Tensor) -> Remembered:
        """Take the point, g and P g where ``accept``, and the pair as the one in ``slot``."""
        rows, row = self.rows, accept[:, None]
        y = self.differences[:, 0]
        y.copy_(torch.where(row, gradient - self.gradient, 0))
        s = torch.where(row, self.x - self.accepted, 0)
        self.basis[self.sample, slot] = s
        self.basis[self.sample, rows + slot] = torch.where(row, Pg - self.basis[:, -1], 0)
        for kept, new in ((self.basis[:, -1], Pg), (self.gradient, gradient)):
            torch.where(row, new, kept, out=kept)
        torch.where(row, self.x, self.accepted, out=self.accepted)
        with_y, with_g = self._products().unbind(dim=2)
        return Remembered(
            y=with_y,
            g=with_g,
            ss=s.norm(dim=1).double().square(),
            yy=y.norm(dim=1).double().square(),
            largest=self.basis[:, -1].abs().amax(dim=1),
        )

    def _products(self) -> Tensor:
        """basis . y and basis . g, (B, K, 2), in float64."""
        (B, K, D), parts = self.basis.shape, self.parts
        of_basis, of_differences = (
            vectors.transpose(0, 1).view(-1, B * parts, D // parts)
            for vectors in (self.basis, self.differences)
        )
        products = torch.bmm(of_basis.transpose(0, 1), of_differences.permute(1, 2, 0))
        return products.view(B, parts, K, 2).double().sum(dim=1)

    def _direction(self, products: Tensor, largest: Tensor, renew: Tensor, first: Tensor) -> Tensor:
        """Coefficients (B, K) in the basis of -H g, or of -P g where that is no descent; a new step
        length where ``renew``. largest: magnitude of P g (B,)."""
        coefficients = self._quasi_newton(products)
        uphill = ~((coefficients * products).sum(dim=1) < 0)
        fresh = (self.pairs == 0) & (first | bool(self.first_step))
        self.by_gradient.copy_(torch.where(renew, uphill | fresh, self.by_gradient))
        self.pairs.masked_fill_(renew & uphill, 0)
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

    def _quasi_newton(self, products: Tensor) -> Tensor:
        """Coefficients (B, K) of -H g in the basis, by the compact form. products: basis . g."""
        rows = self.rows
        count = self.pairs.clamp(max=self.history_size)[:, None]  # (B, 1)
        k = torch.arange(rows, device=self.x.device)
        oldest_first = (self.pairs[:, None] - count + k) % rows  # (B, rows) slots
        valid = (k < count).double()  # (B, rows)

        def ordered(matrix: Tensor) -> Tensor:
            lines = matrix.gather(1, oldest_first[:, :, None].expand_as(matrix))
            square = lines.gather(2, oldest_first[:, None, :].expand_as(matrix))
            return square * valid[:, :, None] * valid[:, None, :]

        SY, YY = ordered(self.SY), ordered(self.YY)
        Sg = (products[:, :rows].gather(1, oldest_first) * valid)[:, :, None]
        Yg = (products[:, rows : 2 * rows].gather(1, oldest_first) * valid)[:, :, None]
        scale = self.reach * self.gamma
        gamma = scale[:, None, None]
        R = SY * self.upper + torch.diag_embed(1 - valid)
        u = torch.linalg.solve_triangular(R, Sg, upper=True)
        v = torch.diagonal(SY, dim1=1, dim2=2)[:, :, None] * u + gamma * (YY @ u - Yg)
        p = torch.linalg.solve_triangular(R.transpose(1, 2), v, upper=False)
        coefficients = torch.zeros_like(products)
        coefficients.scatter_(1, oldest_first, -p.squeeze(2) * valid)
        coefficients.scatter_(1, rows + oldest_first, (gamma * u).squeeze(2) * valid)
        coefficients[:, -1] = -scale
        return coefficients

    def _gradient_step(self, largest: Tensor) -> Tensor:
        if self.first_step:
            step = self.first_step * 2.0 ** self.descents.clamp(max=10)
            return step / largest.clamp_min(torch.finfo(largest.dtype).tiny)
        return (1 / self.gradient.abs().sum(dim=1)).clamp(max=1) * self.learning_rate

    def _move(self, coefficients: Tensor, moving: Tensor) -> None:
        """x = accepted + t (coefficients . basis), within the bounds, where ``moving``."""
        low, high = self.bounds or (-math.inf, math.inf)
        change = gpu_passes.move(
            self.basis, coefficients, self.accepted, self.gradient, self.t, moving, self.x,
            (low, high),
        )  # fmt: skip
        if change is None:
            direction = torch.bmm(coefficients.to(self.x)[:, None, :], self.basis).squeeze(1)
            ahead = (self.accepted + self.t[:, None] * direction).clamp_(low, high)
            change = ((ahead - self.accepted) * self.gradient).sum(dim=1)
            torch.where(moving[:, None], ahead, self.accepted, out=self.x)
        if self.bounds is not None:
            self.slope.copy_(change / self.t)

    def _shorter(self, loss: Tensor, finite: Tensor) -> Tensor:
        """Minimum of the parabola through f, its slope and the failed point, kept in [0.1, 0.5] t.

        Nocedal and Wright 2006, equation 3.58.
        """
        curvature = 2 * (loss - self.loss - self.t * self.slope)
        t = torch.where(
            finite & (curvature > 0), -self.slope * self.t**2 / curvature, 0.25 * self.t
        )
        return torch.minimum(torch.maximum(t, 0.1 * self.t), 0.5 * self.t)


def one_of(buffer: Tensor, sample: Tensor) -> Tensor:
    """A copy of a sample's part of a buffer (B, ...); sample: (1,), on the buffer's device."""
    return buffer.index_select(0, sample)[0]


def at_a_time(vectors: Tensor) -> int:
    """How many of (n, D) are worked on together."""
    return max(1, AT_A_TIME[vectors.device.type] // vectors.shape[1])
