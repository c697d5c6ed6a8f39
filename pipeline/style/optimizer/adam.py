"""Adam over a batch of independent problems, with the interface of ``lbfgs.LBFGS``."""

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980), used as ``LBFGS`` is.

    Args:
        x: where to start (B, D); not changed.
        learning_rate: Adam's alpha.
        bounds: least and greatest value of x's elements; steps are clamped to them.
    """

    def __init__(
        self, x: Tensor, *, learning_rate: float, bounds: tuple[float, float] | None = None
    ) -> None:
        self.learning_rate, self.bounds = learning_rate, bounds
        self.x = x.clone()
        self.accepted = x.clone()
        self.loss = x.new_full((len(x),), torch.inf)
        self.m, self.v = torch.zeros_like(x), torch.zeros_like(x)
        self.steps = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.stopped = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.failed = torch.zeros_like(self.stopped)

    def reset(self, slot: int, x: Tensor) -> None:
        """Begin a new problem in a slot, at ``x`` (D,)."""
        self.x[slot] = x
        self.accepted[slot] = x
        self.loss[slot] = torch.inf
        for buffer in (self.m, self.v, self.steps, self.stopped, self.failed):
            buffer[slot] = 0

    def step(self, loss: Tensor, gradient: Tensor, active: Tensor) -> None:
        """Take the evaluation at ``x`` and move ``x`` on. Inactive slots stay where they are.

        Args:
            loss: (B,).
            gradient: (B, D).
            active: (B,) bool.
        """
        active = active & ~self.stopped
        finite = torch.isfinite(loss) & torch.isfinite(gradient.sum(dim=1))
        self.failed |= active & ~finite
        self.stopped |= self.failed
        moving = active & finite
        mask = moving[:, None]
        gradient = torch.where(mask, gradient, 0)
        self.accepted.copy_(torch.where(mask, self.x, self.accepted))
        self.loss.copy_(torch.where(moving, loss, self.loss))
        self.steps += moving
        self.m.copy_(torch.where(mask, torch.lerp(gradient, self.m, 0.9), self.m))
        self.v.copy_(torch.where(mask, torch.lerp(gradient.square(), self.v, 0.999), self.v))
        count = self.steps.clamp(min=1)[:, None].to(self.x.dtype)
        m, v = self.m / (1 - 0.9**count), self.v / (1 - 0.999**count)
        ahead = self.accepted - self.learning_rate * m / (v.sqrt() + 1e-8)
        if self.bounds is not None:
            ahead.clamp_(*self.bounds)
        self.x.copy_(torch.where(mask, ahead, self.accepted))
