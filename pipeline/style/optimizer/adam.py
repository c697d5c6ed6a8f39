"""Adam over a batch of independent problems, with the face of ``lbfgs.LBFGS``."""

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980) with the same face as ``LBFGS``. x: (B, D)."""

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

    def reset(self, sample: int, x: Tensor) -> None:
        """Begin a new problem in place of ``sample``, at ``x`` (D,)."""
        self.x[sample] = x
        self.accepted[sample] = x
        self.loss[sample] = torch.inf
        for buffer in (self.m, self.v, self.steps, self.stopped, self.failed):
            buffer[sample] = 0

    def step(self, loss: Tensor, gradient: Tensor, active: Tensor) -> None:
        """Take the evaluation at ``x``: loss (B,), gradient (B, D). Inactive samples stay put."""
        active = active & ~self.stopped
        finite = torch.isfinite(loss) & torch.isfinite(gradient.sum(dim=1))
        self.failed |= active & ~finite
        self.stopped |= self.failed
        moving = active & finite
        row = moving[:, None]
        gradient = torch.where(row, gradient, 0)
        self.accepted.copy_(torch.where(row, self.x, self.accepted))
        self.loss.copy_(torch.where(moving, loss, self.loss))
        self.steps += moving
        self.m.copy_(torch.where(row, torch.lerp(gradient, self.m, 0.9), self.m))
        self.v.copy_(torch.where(row, torch.lerp(gradient.square(), self.v, 0.999), self.v))
        count = self.steps.clamp(min=1)[:, None].to(self.x.dtype)
        m, v = self.m / (1 - 0.9**count), self.v / (1 - 0.999**count)
        ahead = self.accepted - self.learning_rate * m / (v.sqrt() + 1e-8)
        if self.bounds is not None:
            ahead.clamp_(*self.bounds)
        self.x.copy_(torch.where(row, ahead, self.accepted))
