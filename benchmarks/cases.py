"""What is compared with what: the settings that both sides share, in one place each.

`ours` comes first in every round. Settings of `None` mean each side's own defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quadriga.policies.exploration_benchmark import BONUSES

HERE = Path(__file__).resolve().parent
OMNISAFE_PYTHON = HERE / ".venv-omnisafe" / "bin" / "python"
HOW_TO_INSTALL_OMNISAFE = "not installed; install: benchmarks/peers/install_omnisafe.sh"


@dataclass(frozen=True)
class Side:
    """One row: a script that measures, and what it is told.

    `fields` are those of an experiment of ours; `env` and `env_config` are the peer's name of the case's environment. A
    floor is the part of the work that ours and every peer must do, by itself: no goal is set against it.
    """

    label: str
    script: str
    algorithm: str
    warmup: int
    iterations: int
    textures: bool = False
    fields: dict[str, Any] = field(default_factory=dict)
    env: str | None = None
    env_config: dict[str, Any] = field(default_factory=dict)
    is_floor: bool = False

    @property
    def is_omnisafe(self) -> bool:
        """Whether it runs in OmniSafe's own environment."""
        return self.script.startswith("peers/omnisafe")

    def specification(self, case: Case, seed: int, *, warmup: int, iterations: int) -> dict[str, Any]:
        """What the script is told, as JSON data."""
        return {
            "algorithm": self.algorithm,
            "env": self.env or case.env,
            "env_config": self.env_config,
            "fields": self.fields,
            "settings": case.settings,
            "textures": self.textures,
            "seed": seed,
            "warmup": warmup,
            "iterations": iterations,
        }


@dataclass(frozen=True)
class Case:
    """Ours beside its peers on one environment; `goal` is the least ratio of CPU seconds that we want to see."""

    name: str
    group: str
    title: str
    env: str
    settings: dict[str, Any] | None
    ours: Side
    peers: tuple[Side, ...]
    rounds: int
    goal: float | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """In the order of a round."""
        return (self.ours, *self.peers)


PPO = {
    "batch_size": 4000,
    "epochs": 4,
    "envs": 8,
    "hidden_sizes": [64, 64],
    "activation": "tanh",
    "learning_rate": 3e-4,
    "clip": 0.2,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "max_grad_norm": 0.5,
}
CARTPOLE = PPO | {"minibatch_size": 500, "normalize_observations": False, "free_log_std": False}
ATARI_RAM = PPO | {"minibatch_size": 500, "normalize_observations": True, "free_log_std": False}
ATARI_GAMES = ("Freeway", "Venture", "Pong", "BankHeist")
# RLlib's own sizes and rates. Its networks stay separate and without a KL loss, as in every case with settings.
ATARI_RAM_RLLIB = ATARI_RAM | {
    "minibatch_size": 128,
    "epochs": 30,
    "envs": 1,
    "hidden_sizes": [256, 256],
    "learning_rate": 5e-5,
    "clip": 0.3,
    "gae_lambda": 1.0,
    "max_grad_norm": None,
    "normalize_observations": False,
}
HALFCHEETAH = PPO | {"minibatch_size": 128, "normalize_observations": True, "free_log_std": True}
# OmniSafe's own settings but for the steps of an epoch. Four environments of ours play the four episodes that its
# one plays, so that both reset equally often.
SAFETY = PPO | {
    "minibatch_size": 64,
    "epochs": 40,
    "envs": 4,
    "max_grad_norm": 40.0,
    "normalize_observations": True,
}
# OmniSafe's TRPO and CPO, but for the steps of an epoch: the same conjugate gradient on all rows, and critics' passes.
SECOND_ORDER = SAFETY | {
    "minibatch_size": 128,
    "epochs": 10,
    "critic_learning_rate": 1e-3,
    "target_kl": 0.01,
    "damping": 0.1,
    "cg_iterations": 15,
}


def _rllib(
    name: str,
    env: str,
    settings: dict[str, Any] | None,
    goal: float,
    peer: dict[str, Any] | None = None,
    floors: tuple[Side, ...] = (),
) -> Case:
    text = "each with its own defaults: 4,000 steps, minibatch 128; 10 epochs and 64x64, RLlib 30 epochs and 256x256"
    counts = {"warmup": 1, "iterations": 3}
    if settings is not None:
        text, counts = _sizes(settings), {"warmup": 3, "iterations": 10}
    return Case(
        name=name,
        group="rllib",
        title=f"PPO on {env} ({text})",
        env=env,
        settings=settings,
        ours=Side("Quadriga ppo", "quadriga_run.py", "ppo", **counts),
        peers=(Side("RLlib PPO", "peers/rllib_ppo.py", "PPO", **counts, **(peer or {})), *floors),
        rounds=5,
        goal=goal,
    )


def _sizes(settings: dict[str, Any]) -> str:
    layers = "x".join(str(size) for size in settings["hidden_sizes"])
    return (
        f"batch {settings['batch_size']:,}, minibatch {settings['minibatch_size']}, {settings['epochs']} epochs, "
        f"{settings['envs']} environments, {layers} {settings['activation']}"
    )


def _bonus(name: str, env: str) -> Case:
    """What a bonus costs: the same TRPO at the presets' default sizes, in turn without one and with each."""

    def side(label: str, preset: str, fields: dict[str, Any] | None = None) -> Side:
        return Side(label, "quadriga_run.py", preset, warmup=3, iterations=10, fields=fields or {})

    return Case(
        name=name,
        group="bonus",
        title=f"TRPO on {env} (presets' defaults: 5,000 steps, 10 environments, models of 64x64)",
        env=env,
        settings=None,
        ours=side("no bonus", "trpo", dict(BONUSES["none"])),
        peers=(
            side("prediction error", "surprisal", dict(BONUSES["prediction-error"])),
            side("surprisal", "surprisal"),
            side("learning progress", "learning-progress"),
            side("VIME", "vime"),
        ),
        rounds=5,
    )


def _peers(peer: str, *, textures: bool, **counts: int) -> tuple[Side, ...]:
    """OmniSafe without the textures of its environments, and before it, with `textures`, as it is."""
    stripped = Side(f"OmniSafe {peer}, textures stripped", "peers/omnisafe_run.py", peer, **counts)
    as_it_is = Side(f"OmniSafe {peer}", "peers/omnisafe_run.py", peer, textures=True, **counts)
    return (as_it_is, stripped) if textures else (stripped,)


def _omnisafe(own: str, peer: str, settings: dict[str, Any], *, textures: bool = False) -> Case:
    """The same work on both sides; with `textures` beside the peer as it is, too."""
    products = settings.get("cg_iterations")
    second_order = f"; {products} products of conjugate gradient" if products else ""
    return Case(
        name=own,
        group="omnisafe",
        title=f"{peer} on SafetyPointGoal1-v0 ({settings['batch_size']:,} steps an epoch, {settings['epochs']} passes "
        f"of minibatch {settings['minibatch_size']}{second_order}, 64x64 tanh)",
        env="SafetyPointGoal1-v0",
        settings=settings,
        ours=Side(f"Quadriga {own}", "quadriga_run.py", own, warmup=1, iterations=4),
        peers=_peers(peer, textures=textures, warmup=1, iterations=1),
        rounds=3,
    )


def _defaults(own: str, peer: str, settings: str, *, textures: bool = False) -> Case:
    """Each with its own defaults: what a user of either waits for; `textures` as of `_omnisafe`."""
    return Case(
        name=f"{own}-defaults",
        group="omnisafe-defaults",
        title=f"{peer} on SafetyPointGoal1-v0, each with its own defaults ({settings}; OmniSafe 20,000 steps)",
        env="SafetyPointGoal1-v0",
        settings=None,
        ours=Side(f"Quadriga {own}", "quadriga_run.py", own, warmup=1, iterations=4),
        peers=_peers(peer, textures=textures, warmup=0, iterations=1),
        rounds=2,
    )


def _atari(game: str, name: str, settings: dict[str, Any] | None) -> Case:
    """A game seen through its RAM; beside the emulator by itself, which takes most of the time."""
    alone = Side(
        "the emulator alone", "peers/emulator_alone.py", "", warmup=1, iterations=4, env=f"ALE/{game}-v5", is_floor=True
    )
    peer = {"env": f"ALE/{game}-v5", "env_config": {"obs_type": "ram"}}
    return _rllib(f"atari-ram-{name}", f"{game}Ram-v0", settings, goal=5.0, peer=peer, floors=(alone,))


CASES = (
    _rllib("cartpole", "CartPole-v1", CARTPOLE, goal=5.0),
    _rllib("halfcheetah", "HalfCheetah-v5", HALFCHEETAH, goal=4.0),
    *(_atari(game, game.lower(), ATARI_RAM) for game in ATARI_GAMES),
    _atari("Venture", "venture-256x256", ATARI_RAM_RLLIB),
    *(_atari(game, f"{game.lower()}-defaults", None) for game in ATARI_GAMES),
    _bonus("bonus", "HalfCheetah-v5"),  # rewards are dense: without any, TRPO's step costs nothing either
    _omnisafe("ppo", "PPO", SAFETY),
    _omnisafe("ppo-lagrangian", "PPOLag", SAFETY, textures=True),
    _omnisafe("pid-lagrangian", "CPPOPID", SAFETY, textures=True),
    _omnisafe("trpo", "TRPO", SECOND_ORDER),
    _omnisafe("trpo-lagrangian", "TRPOLag", SECOND_ORDER),
    _omnisafe("trpo-pid", "TRPOPID", SECOND_ORDER),
    _omnisafe("cpo", "CPO", SECOND_ORDER),
    _defaults("pid-lagrangian", "CPPOPID", "20,000 steps, 20 passes of minibatch 2,500", textures=True),
    _defaults("ppo", "PPO", "4,000 steps, 10 passes of minibatch 128"),
    _defaults("ppo-lagrangian", "PPOLag", "20,000 steps, 20 passes of minibatch 2,500"),
    _defaults("trpo", "TRPO", "4,000 steps"),
    _defaults("trpo-lagrangian", "TRPOLag", "20,000 steps"),
    _defaults("trpo-pid", "TRPOPID", "20,000 steps"),
    _defaults("cpo", "CPO", "20,000 steps"),
)
