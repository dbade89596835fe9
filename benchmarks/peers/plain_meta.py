"""The network and loops of Reptile and MAML as one writes them in PyTorch; learn2learn's MAML around the same network.

Nothing clever and nothing wasteful: modules, autograd, `torch.optim`. Tasks and minibatches come from
`quadriga.metalearn`, so that both sides learn the same ones.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

LEARN2LEARN = Path(__file__).resolve().parent.parent / ".learn2learn"


class Block(nn.Module):
    """3x3 convolution of stride 2 with TensorFlow's padding, batch statistics, ReLU."""

    def __init__(self, channels: int, filters: int, side: int) -> None:
        super().__init__()
        out = -(-side // 2)
        total = max((out - 1) * 2 + 3 - side, 0)
        before, after = total // 2, total - total // 2
        self.pad = nn.ZeroPad2d((before, after, before, after))
        self.conv = nn.Conv2d(channels, filters, 3, stride=2)
        self.norm = nn.BatchNorm2d(filters, eps=1e-3, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(self.pad(x))))


def network(ways: int) -> nn.Module:
    """The paper's network for Omniglot."""
    blocks = [Block(1 if side == 28 else 64, 64, side) for side in (28, 14, 7, 4)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(256, ways))


def images(array: Any) -> torch.Tensor:
    """Images `[n, 28, 28, 1]` as PyTorch wants them."""
    return torch.from_numpy(array).float().permute(0, 3, 1, 2).contiguous()


class Reptile:
    """Sequential Reptile: one network, one Adam whose state goes on."""

    def __init__(self, ways: int, learning_rate: float) -> None:
        self.model = network(ways)
        self.optimizer = torch.optim.Adam(self.model.parameters(), learning_rate, betas=(0.0, 0.999))

    def iterate(self, tasks: list[Any], epsilon: float) -> None:
        """One meta-iteration over tasks and their minibatches."""
        start = [parameter.detach().clone() for parameter in self.model.parameters()]
        total = [torch.zeros_like(parameter) for parameter in start]
        for task, plan in tasks:
            x, y = images(task.support_inputs), torch.from_numpy(task.support_targets)
            for index in torch.from_numpy(plan):
                loss = nn.functional.cross_entropy(self.model(x[index]), y[index], reduction="sum")
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            with torch.no_grad():
                for sum_, parameter, first in zip(total, self.model.parameters(), start, strict=True):
                    sum_ += parameter - first
                    parameter.copy_(first)
        with torch.no_grad():
            for parameter, sum_ in zip(self.model.parameters(), total, strict=True):
                parameter += epsilon / len(tasks) * sum_


def has_learn2learn() -> bool:
    """Whether install_learn2learn.sh has been run."""
    return (LEARN2LEARN / "learn2learn" / "algorithms" / "maml.py").is_file()


def maml_class() -> Any:
    """learn2learn's MAML, without what its packages import besides."""
    for name in ("learn2learn", "learn2learn.algorithms"):
        package = types.ModuleType(name)
        package.__path__ = [str(LEARN2LEARN / name.replace(".", "/"))]
        sys.modules[name] = package
    return importlib.import_module("learn2learn.algorithms.maml").MAML


class Learn2Learn:
    """A meta-iteration as learn2learn's examples write it."""

    def __init__(self, ways: int, learning_rate: float, meta_rate: float, *, first_order: bool) -> None:
        self.maml = maml_class()(network(ways), lr=learning_rate, first_order=first_order)
        self.optimizer = torch.optim.Adam(self.maml.parameters(), meta_rate)

    def iterate(self, tasks: list[Any]) -> None:
        """One meta-iteration over tasks and their minibatches."""
        self.optimizer.zero_grad()
        for task, plan in tasks:
            x, y = images(task.support_inputs), torch.from_numpy(task.support_targets)
            learner = self.maml.clone()
            for index in torch.from_numpy(plan):
                learner.adapt(nn.functional.cross_entropy(learner(x[index]), y[index]))
            queries, labels = images(task.query_inputs), torch.from_numpy(task.query_targets)
            nn.functional.cross_entropy(learner(queries), labels).backward()
        for parameter in self.maml.parameters():
            parameter.grad.mul_(1.0 / len(tasks))
        self.optimizer.step()
