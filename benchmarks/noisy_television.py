"""The noisy television: what surprisal and learning progress say of noise that nobody can learn, update by update.

    python benchmarks/noisy_television.py [--updates N] [--picture FILE]

A state of two numbers. Where the first is positive (the television is on) both jump by a random number in every step;
elsewhere they nearly stand still. The model is the bonus's own, as a learner fits it; no environment and no Ray.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import machine
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from quadriga.platform.plot import COLORS, INK, MUTED
from quadriga.policies.dynamics import Snapshot
from quadriga.policies.dynamics_fit import DynamicsFit
from quadriga.policies.experiment import DynamicsSettings

K = 5
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def main() -> None:
    """Fits, prints and draws."""
    parser = argparse.ArgumentParser(description="Surprisal and learning progress of noise.")
    parser.add_argument("--updates", type=int, default=80, help="of the model (default: %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw both")
    arguments = parser.parse_args()
    known = machine.describe()
    surprisal, progress = measure(arguments.updates)
    for name, curves in (("surprisal", surprisal), (f"learning progress, k = {K}", progress)):
        print(f"{name}: first and last, on noise {curves[0, 0]:.2f}, {curves[-1, 0]:.2f}; elsewhere ", end="")
        print(f"{curves[0, 1]:.2f}, {curves[-1, 1]:.2f} nats")
    print(machine.sentence(known))
    if arguments.picture:
        draw(surprisal, progress, arguments.picture)


def transitions(count: int, seed: int) -> Rows:
    """`count` transitions: states, actions and next states."""
    rng = np.random.default_rng(seed)
    states, actions = rng.standard_normal((count, 2)), rng.uniform(-1, 1, (count, 1))
    change = rng.standard_normal((count, 2)) * np.where(states[:, :1] > 0, 1.0, 0.05)
    return states.astype(np.float32), actions.astype(np.float32), (states + change).astype(np.float32)


def measure(updates: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean surprisal and learning progress [updates, 2] of new transitions, on noise and elsewhere; nats."""
    settings = DynamicsSettings(hidden_sizes=(32,), batch_size=3000, target_kl=0.05, fisher_fraction=1.0)
    fit = DynamicsFit(settings, dim=2, num_actions=None, act_dim=1, likelihood="gaussian", seed=0)
    fresh = transitions(10_000, 1_000_000)
    on = fresh[0][:, 0] > 0
    densities: list[np.ndarray] = []
    for t in range(updates):
        fit.update(*transitions(1500, t), lambda values: values, np.random.default_rng(t))
        model = Snapshot(fit.arrays(), "gaussian", "tanh", None)
        densities.append(model.log_prob(*fresh) - model.log_volume())
    means = np.array([[density[on].mean(), density[~on].mean()] for density in densities])
    before = means[np.maximum(np.arange(updates) - K, 0)]
    return -means, means - before


def draw(surprisal: np.ndarray, progress: np.ndarray, path: Path) -> None:
    """Two panels: what each bonus pays in the two places."""
    picture = Figure(figsize=(8.4, 3.2), facecolor="white", layout="constrained")
    FigureCanvasAgg(picture)
    for axis, title, curves in zip(
        picture.subplots(1, 2), ("Surprisal", f"Learning progress, k = {K}"), (surprisal, progress), strict=True
    ):
        for place, label in enumerate(("noise", "elsewhere")):
            axis.plot(curves[:, place], color=COLORS[1 - place], label=label, linewidth=1.8)
        axis.axhline(0, color=MUTED, linewidth=0.8)
        axis.set_title(title, loc="left", fontsize=10.5, color=INK)
        axis.set_xlabel("updates of the model", fontsize=9, color=MUTED)
        axis.set_ylabel("nats a step", fontsize=9, color=MUTED)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=MUTED, labelsize=8.5)
    picture.axes[0].legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
