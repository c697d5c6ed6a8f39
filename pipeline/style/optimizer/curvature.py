"""The curvature pairs that L-BFGS keeps for each slot, and quasi-Newton directions from them.

A direction is that of Byrd, Nocedal, Schnabel ("Representations of quasi-Newton matrices", 1994,
equation 3.1) with H_0 = reach gamma P for a preconditioner P. It lies in the span of the kept steps
s_i, the kept P y_i and P g. So only a few coefficients are computed, from the vectors' inner
products, and a step reads the history twice, whatever its length.

All state is in fixed buffers and is updated in place. Nothing here reads a value back from the
device, so a CUDA graph can record it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.style.hardware import gpu_passes
from pipeline.style.hardware.gpu_passes import Remembered
from pipeline.style.optimizer.buffers import select_slot, vectors_at_once

PARTS = 256
"""Most parts of a long inner product on a GPU, so that all multiprocessors have work."""

Curvature = tuple[Tensor, ...]
"""The kept pairs of a slot and their inner products."""


class CurvatureHistory:
    """Curvature pairs (s, y) of B slots: the last steps and how they changed the gradient.

    Args:
        like: (B, D); gives the shape, dtype and device of x.
        size: m, the curvature pairs kept per slot.
        curvature_test: see ``LBFGS``.
        reach: see ``LBFGS``.

    Attributes:
        basis: (B, 2 (m + 1) + 1, D): rows of s_i, as many of P y_i, and P g.
        gradient: g at the accepted point (B, D).
        pairs: pairs kept since the last reset (B,); more than m once old ones are overwritten.
        rows: m + 1, because a pair is written before it is judged.
    """

    def __init__(self, like: Tensor, size: int, *, curvature_test: str, reach: float) -> None:
        B, D = like.shape
        self.size, self.curvature_test, self.reach = size, curvature_test, reach
        self.rows = size + 1
        # In memory the slots' parts of a vector are next to each other, so that parts of all slots
        # make one batch of products.
        self.differences = like.new_zeros(2, B, D).transpose(0, 1)  # the last y, then g
        self.gradient = self.differences[:, 1]
        self.basis = like.new_zeros(2 * self.rows + 1, B, D).transpose(0, 1)
        self.SY = like.new_zeros(B, self.rows, self.rows, dtype=torch.float64)  # s_i . y_j
        self.YY = like.new_zeros(B, self.rows, self.rows, dtype=torch.float64)  # y_i . P y_j
        self.gamma = like.new_ones(B, dtype=torch.float64)
        self.pairs = torch.zeros(B, dtype=torch.long, device=like.device)
        self.slots = torch.arange(B, device=like.device)
        self.parts = math.gcd(D, PARTS) if like.is_cuda else 1
        self.upper = torch.ones_like(self.SY[0]).triu()

    @property
    def buffers(self) -> tuple[Tensor, ...]:
        """The buffers that hold what has been learnt, each (B, ...)."""
        return self.basis, self.SY, self.YY, self.gamma, self.pairs

    def reset(self, slot: int, curvature: Curvature | None = None) -> None:
        """Empty a slot, or fill it with another slot's ``curvature``."""
        for buffer in (self.gradient, self.basis, self.SY, self.YY, self.pairs):
            buffer[slot] = 0
        self.gamma[slot] = 1
        for buffer, known in zip(self.buffers, curvature or (), strict=False):
            buffer[slot] = known

    def curvature(self, slot: int) -> Curvature:
        """Copy what a slot has learnt, for a problem that differs from its own only by rounding."""
        return tuple(buffer[slot].clone() for buffer in self.buffers)

    def pairs_of(self, slot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pairs that a slot (1,) keeps.

        The shapes are always the same and the index is on the device, as a CUDA graph requires.

        Returns:
            s / sqrt(s.y) (rows, D) and P y / sqrt(s.y) (rows, D), in no particular order, and the
            number of pairs (). Rows without a pair are zero.
        """
        kept = self._kept(slot)
        sy = torch.diagonal(select_slot(self.SY, slot))
        scale = torch.where(kept, sy, 1).rsqrt().to(self.basis)[:, None]
        s, Py = (
            select_slot(self.basis[:, first : first + self.rows], slot)
            .mul_(scale)
            .masked_fill_(~kept[:, None], 0)
            for first in (0, self.rows)
        )
        return s, Py, kept.sum()

    def change_metric(
        self, slot: Tensor, convert: Callable[[Tensor], tuple[Tensor, Tensor]], taken: Tensor
    ) -> None:
        """Replace P by another metric Q for one slot, and keep what has been learnt.

        Args:
            slot: (1,).
            convert: maps n vectors P v (n, D) to the n vectors Q v, and v.
            taken: () bool; where it is false nothing changes, to the bit.
        """
        rows = self.rows
        converted = select_slot(self.basis[:, rows:], slot)  # P y_i, then P g
        products = converted.new_zeros(rows + 1, rows + 1, dtype=torch.float64)
        for start in range(0, rows + 1, vectors_at_once(converted)):
            part = converted[start : start + vectors_at_once(converted)]
            end = start + len(part)
            Qv, v = convert(part)
            torch.where(taken, Qv, part, out=part)
            found = self._inner(converted[:end], v)
            products[:end, start:end], products[start:end, :end] = found, found.T
        self.basis[:, rows:].index_copy_(0, slot, converted[None])
        kept = self._kept(slot)
        YY = ((products + products.T) / 2)[:rows, :rows]
        YY = torch.where(kept[:, None] & kept, YY, 0)
        pairs = self.pairs.index_select(0, slot)
        last = (pairs - 1) % rows
        sy, yy = (
            torch.diagonal(matrix).index_select(0, last)
            for matrix in (select_slot(self.SY, slot), YY)
        )
        gamma = torch.where((pairs > 0) & (yy > 0), sy / yy, 1)[0]
        for buffer, new in ((self.YY, YY), (self.gamma, gamma)):
            new = torch.where(taken, new, select_slot(buffer, slot))
            buffer.index_copy_(0, slot, new[None])

    def store(
        self,
        x: Tensor,
        accepted: Tensor,
        gradient: Tensor,
        Pg: Tensor,
        accept: Tensor,
        first: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Store an evaluation: its point, g and P g, and the pair (s, y) if its curvature is good.

        Args:
            x: the point of the evaluation (B, D).
            accepted: the point accepted before (B, D), set to x in place where ``accept``.
            gradient: g at x (B, D).
            Pg: P g at x (B, D).
            accept: (B,) bool; where it is false nothing is stored.
            first: (B,) bool; where it is true this is the first point, which makes no pair.

        Returns:
            basis . g (B, K), and the largest magnitude in P g (B,).
        """
        rows, row = self.rows, self.pairs % self.rows
        found = gpu_passes.remember(
            self.basis, self.differences, accepted, x, gradient, Pg, accept, row
        ) or self._stored(x, accepted, gradient, Pg, accept, row)
        sy, yy = found.y[self.slots, row], found.y[self.slots, rows + row]
        cosine = self.curvature_test == "cosine"
        least = (found.ss * found.yy).sqrt() * 1e-6 if cosine else 1e-10
        good = accept & ~first & (sy > least)
        self.SY[self.slots, :, row] = found.y[:, :rows]
        self.YY[self.slots, :, row] = found.y[:, rows : 2 * rows]
        self.YY[self.slots, row, :] = found.y[:, rows : 2 * rows]
        self.gamma.copy_(torch.where(good, sy / torch.where(good, yy, 1), self.gamma))
        self.pairs += good
        return found.g, found.largest

    def direction(self, products: Tensor) -> Tensor:
        """Compute the coefficients (B, K) of -H g in the basis, by the compact form.

        Args:
            products: basis . g (B, K).
        """
        rows = self.rows
        count = self.pairs.clamp(max=self.size)[:, None]  # (B, 1)
        k = torch.arange(rows, device=self.pairs.device)
        oldest_first = (self.pairs[:, None] - count + k) % rows  # (B, rows) indices of rows
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

    def _kept(self, slot: Tensor) -> Tensor:
        """Tell which rows hold a pair that a slot (1,) keeps: (rows,) bool."""
        pairs = self.pairs.index_select(0, slot)
        age = (pairs - 1 - torch.arange(self.rows, device=pairs.device)) % self.rows
        return age < pairs.clamp(max=self.size)

    def _inner(self, u: Tensor, v: Tensor) -> Tensor:
        """Compute u_i . v_j in float64, (n, D) and (m, D) -> (n, m)."""
        of_u, of_v = (
            vectors.view(len(vectors), self.parts, -1).transpose(0, 1) for vectors in (u, v)
        )
        return torch.bmm(of_u, of_v.mT).double().sum(dim=0)

    def _stored(
        self, x: Tensor, accepted: Tensor, gradient: Tensor, Pg: Tensor, accept: Tensor, row: Tensor
    ) -> Remembered:
        """Do what ``gpu_passes.remember`` does, by PyTorch's operations."""
        write = self._write_masked if self.basis.is_cuda else self._write_one_by_one
        write(x, accepted, gradient, Pg, accept, row)
        s, y = self.basis[self.slots, row], self.differences[:, 0]
        with_y, with_g = self._products().unbind(dim=1)
        return Remembered(
            y=with_y,
            g=with_g,
            ss=s.norm(dim=1).double().square(),
            yy=y.norm(dim=1).double().square(),
            largest=self.basis[:, -1].abs().amax(dim=1),
        )

    def _write_masked(
        self, x: Tensor, accepted: Tensor, gradient: Tensor, Pg: Tensor, accept: Tensor, row: Tensor
    ) -> None:
        """Write an evaluation and its pair into the buffers, without asking the device."""
        mask, last = accept[:, None], self.basis[:, -1]
        self.basis[self.slots, row] = torch.where(mask, x - accepted, 0)
        self.basis[self.slots, self.rows + row] = torch.where(mask, Pg - last, 0)
        self.differences[:, 0] = torch.where(mask, gradient - self.gradient, 0)
        for kept, new in ((last, Pg), (self.gradient, gradient), (accepted, x)):
            torch.where(mask, new, kept, out=kept)

    def _write_one_by_one(
        self, x: Tensor, accepted: Tensor, gradient: Tensor, Pg: Tensor, accept: Tensor, row: Tensor
    ) -> None:
        """Do the same slot by slot, in half the passes over memory: a CPU knows ``accept``."""
        for slot, (taken, at) in enumerate(zip(accept.tolist(), row.tolist(), strict=True)):
            kept = self.basis[slot]
            changes = (
                (kept[at], x[slot], accepted[slot]),
                (kept[self.rows + at], Pg[slot], kept[-1]),
                (self.differences[slot, 0], gradient[slot], self.gradient[slot]),
            )
            for change, new, old in changes:
                if taken:
                    torch.sub(new, old, out=change)
                    old.copy_(new)
                else:
                    change.zero_()

    def _products(self) -> Tensor:
        """Compute y . basis and g . basis, (B, 2, K), in float64."""
        (B, K, D), parts = self.basis.shape, self.parts
        of_basis, of_differences = (
            vectors.transpose(0, 1).view(-1, B * parts, D // parts).transpose(0, 1)
            for vectors in (self.basis, self.differences)
        )
        # With the two factors the other way round a CPU takes nearly twice as long.
        products = torch.bmm(of_differences, of_basis.mT)
        return products.view(B, parts, 2, K).double().sum(dim=1)
