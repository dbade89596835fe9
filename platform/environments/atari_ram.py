"""Atari games seen through their 128 bytes of RAM, by the Arcade Learning Environment (Bellemare et al. 2013).

As Machado et al. 2018 (arXiv:1709.06009) recommend: a step is 4 frames, and in every frame the console keeps the action
before with probability 0.25 (sticky actions), all actions are those that the game knows, and an episode ends with the
game, not with a life. Achiam & Sastry 2017 play the same games as `...-ram-v0`, whose steps are 2 to 5 frames.

The sticky frames are drawn here, from the episode's seed: seeding the emulator takes a new load of the cartridge, a
tenth of a second. Needs the package `ale-py`, which ships the cartridges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray

from quadriga.platform.environments.native import Failed, NativeVectorEnv
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.errors import UserError

MAX_STEPS = 7000
"""As in Achiam & Sastry's code."""
FRAMES, STICKY = 4, 0.25
RAM_BYTES = 128


class AtariRamEnv(NativeVectorEnv):
    """N consoles that play one game: observations are RAM bytes / 255, rewards are points."""

    GAME = ""

    def __init__(
        self,
        num_envs: int,
        *,
        name: str,
        rebuild: bool = True,
        max_episode_steps: int | None = None,
        episode_seeds: EpisodeSeeds | None = None,
        autoreset: bool = True,
    ) -> None:
        """Loads the game.

        Args:
            num_envs: how many.
            name: what error messages call them.
            rebuild: begin a new episode where one raises instead of raising `EnvironmentFailed`.
            max_episode_steps: time limit; by default 7,000 steps.
            episode_seeds: the seed of every episode; needed for snapshots.
            autoreset: see `NativeVectorEnv`.

        Raises:
            UserError: `ale-py` is not installed.
        """
        try:
            import ale_py
            from ale_py import roms
        except ImportError as error:
            raise UserError(f"environment {name!r} needs the package ale-py: pip install ale-py") from error
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._state_of = ale_py.ALEState
        self._consoles = []
        for _ in range(num_envs):
            console = ale_py.ALEInterface()
            console.setInt("random_seed", 0)
            console.setInt("frame_skip", 1)
            console.setFloat("repeat_action_probability", 0.0)
            console.loadROM(str(roms.get_rom_path(self.GAME)))
            self._consoles.append(console)
        self._game_actions = self._consoles[0].getMinimalActionSet()
        # Where every episode begins: the cartridge's own start, whatever was played before.
        self._beginning = self._consoles[0].cloneState(include_rng=True)
        super().__init__(
            num_envs,
            spaces.Box(0.0, 1.0, (RAM_BYTES,), np.float32),
            spaces.Discrete(len(self._game_actions)),
            name=name,
            rebuild=rebuild,
            max_episode_steps=max_episode_steps or MAX_STEPS,
            episode_seeds=episode_seeds,
            autoreset=autoreset,
        )
        self._random = [seeding.np_random(None)[0] for _ in range(num_envs)]
        self._held = [0] * num_envs  # the action that each console is executing
        self._ram = np.zeros((num_envs, RAM_BYTES), np.uint8)

    def _seed(self, index: int, seed: int) -> None:
        self._random[index] = seeding.np_random(seed)[0]

    def _begin_episode(self, index: int) -> None:
        self._consoles[index].restoreState(self._beginning)
        self._held[index] = 0
        self._observe(index)

    def _observe(self, index: int) -> None:
        self._consoles[index].getRAM(self._ram[index])
        np.divide(self._ram[index], 255.0, out=self.exact_observations[index])

    def _simulate(self, actions: NDArray[np.int64]) -> Failed:
        failed: Failed = []
        for index, (console, action) in enumerate(zip(self._consoles, actions.tolist(), strict=True)):
            try:
                reward = 0
                for keeps in self._random[index].random(FRAMES) < STICKY:
                    if not keeps:
                        self._held[index] = action
                    reward += console.act(self._game_actions[self._held[index]])
                self.exact_rewards[index] = reward
                self._terminations[index] = console.game_over(with_truncation=False)
                self._observe(index)
            except Exception as error:
                failed.append((index, error))
        return failed

    def _snapshot(self) -> dict[str, Any]:
        return {
            "consoles": [console.cloneState(include_rng=True).serialize() for console in self._consoles],
            "held": list(self._held),
            "random": [random.bit_generator.state for random in self._random],
        }

    def _restore(self, index: int, snapshot: dict[str, Any]) -> None:
        self._consoles[index].restoreState(self._state_of(snapshot["consoles"][index]))
        self._held[index] = snapshot["held"][index]
        self._random[index].bit_generator.state = snapshot["random"][index]
        self._observe(index)


class FreewayRamEnv(AtariRamEnv):
    """A point for each crossing of the road."""

    GAME = "freeway"


class VentureRamEnv(AtariRamEnv):
    """Points for treasures and monsters, which are far from the entrance."""

    GAME = "venture"


class PongRamEnv(AtariRamEnv):
    """A point a ball, lost or won."""

    GAME = "pong"


class BankHeistRamEnv(AtariRamEnv):
    """Points for banks robbed."""

    GAME = "bank_heist"
