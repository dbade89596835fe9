"""What no side can save of an iteration of Atari: as many frames by ale-py alone, random actions, RAM read every step.

`training.py` starts it, in a process of its own.
"""

from __future__ import annotations

import random
import re
from typing import Any

from phases import SAMPLING, Stopwatch, run

FRAMES = 4
DEFAULTS = {"envs": 1, "batch_size": 4000}
"""What Quadriga's PPO and RLlib's have in common."""


class Emulators:
    """Consoles that play `game` and nothing else."""

    def __init__(self, game: str, count: int) -> None:
        import ale_py
        from ale_py import roms

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.consoles = []
        for _ in range(count):
            console = ale_py.ALEInterface()
            console.setInt("frame_skip", FRAMES)
            console.setFloat("repeat_action_probability", 0.25)
            console.loadROM(str(roms.get_rom_path(game)))
            self.consoles.append(console)
        self.actions = self.consoles[0].getMinimalActionSet()

    def play(self, steps: int) -> None:
        """`steps` steps of 4 frames, spread over the consoles."""
        for step in range(steps):
            console = self.consoles[step % len(self.consoles)]
            console.act(random.choice(self.actions))
            console.getRAM()
            if console.game_over():
                console.reset_game()


def measure(specification: dict[str, Any]) -> dict[str, Any]:
    """Iterations of as many steps as the others collect; `env` is gymnasium's name of the game, `ALE/BankHeist-v5`."""
    name = specification["env"].partition("/")[2].partition("-")[0]
    settings = specification["settings"] or DEFAULTS
    emulators = Emulators(re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(), settings["envs"])
    watch = Stopwatch()
    watch.wrap(emulators, "play", SAMPLING)
    steps = settings["batch_size"]
    for _ in range(specification["warmup"] + specification["iterations"]):
        watch.begin()
        emulators.play(steps)
        watch.end(steps)
    return {"iterations": watch.iterations[specification["warmup"] :], "passes": 0.0}


if __name__ == "__main__":
    run(measure)
