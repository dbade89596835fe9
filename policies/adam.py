"""Adam over one flat vector (Kingma & Ba 2015, Algorithm 1), with few and cheap operations.

`torch.optim.Adam` spends several times the arithmetic of a small network on bookkeeping. This is
the same update, tested equal, as a torch optimizer so that checkpoints and schedules work.
"""

from __future__ import annotations

from typing import Any

import torch

from quadriga.policies.networks import FlatParameters


class FlatAdam(torch.optim.Optimizer):
    """Adam for `FlatParameters`: on a CPU in numpy on the tensors' memory, elsewhere torch's fused kernel."""

    def __init__(
        self, flat: FlatParameters, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
    ) -> None:
        super().__init__([flat.vector], {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps})
        self.flat = flat
        self.state[flat.vector] = {
            "step": torch.zeros((), dtype=torch.float32, device=flat.vector.device),
            "exp_avg": torch.zeros_like(flat.vector.data),
            "exp_avg_sq": torch.zeros_like(flat.vector.data),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues with the moments of a state; the learning rate, a setting, stays this optimizer's own."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group.update({name: value for name, value in self.defaults.items() if name in group})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update from the gradient vector."""
        self.apply()

    def apply(self) -> None:
        """As `step`, without torch's hooks around it."""
        vector, group = self.flat.vector, self.param_groups[0]
        state = self.state[vector]
        lr, beta1, beta2, eps = group["lr"], group["beta1"], group["beta2"], group["eps"]
        if vector.device.type != "cpu":
            torch._fused_adam_(
                [vector.data],
                [self.flat.gradient],
                [state["exp_avg"]],
                [state["exp_avg_sq"]],
                [],
                [state["step"].add_(1)],
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                weight_decay=0.0,
                eps=eps,
                amsgrad=False,
                maximize=False,
            )
            return
        state["step"] += 1
        steps = int(state["step"])
        gradient = self.flat.gradient.numpy()
        mean, square = state["exp_avg"].numpy(), state["exp_avg_sq"].numpy()
        scratch = gradient * (1.0 - beta1)
        mean *= beta1
        mean += scratch
        scratch[:] = gradient
        scratch *= gradient
        scratch *= 1.0 - beta2
        square *= beta2
        square += scratch
        # theta -= lr * mean / (1 - b1^t) / (sqrt(square / (1 - b2^t)) + eps)
        denominator = square * (1.0 / (1.0 - beta2**steps))
        denominator **= 0.5
        denominator += eps
        scratch[:] = mean
        scratch *= lr / (1.0 - beta1**steps)
        scratch /= denominator
        vector.data.numpy().__isub__(scratch)
