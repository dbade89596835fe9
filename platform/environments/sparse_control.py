"""Sparse classic control in numpy: all environments of a vector move in the same few array operations.

Two tasks of Houthooft et al. 2016 (VIME, arXiv:1605.09674) and of Achiam & Sastry 2017 (arXiv:1703.01732, section 5):
an agent that explores by undirected noise hardly ever sees a reward. Their cars are bodies of a Box2D simulation; here
are the equations of motion. What each task pays is theirs. Tasks with MuJoCo's robots are in `sparse_locomotion`.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray

from quadriga.platform.environments.native import Failed, NativeVectorEnv
from quadriga.platform.environments.planes import Plane
from quadriga.platform.environments.seeds import EpisodeSeeds

MAX_STEPS = 500
"""As in both papers."""

Array = NDArray[np.float64]


class _StateSpaceEnv(NativeVectorEnv):
    """N systems whose observation is their whole state: a subclass gives the motion and the beginning."""

    def __init__(
        self,
        num_envs: int,
        bound: Array,
        force: float,
        *,
        name: str,
        rebuild: bool = True,
        max_episode_steps: int | None = None,
        episode_seeds: EpisodeSeeds | None = None,
        autoreset: bool = True,
    ) -> None:
        """Makes the systems.

        Args:
            num_envs: how many.
            bound: of the absolute values of the state, float64 [dim].
            force: of the absolute value of the action.
            name: what error messages call them.
            rebuild: begin a new episode where one raises instead of raising `EnvironmentFailed`.
            max_episode_steps: time limit; by default the task's own.
            episode_seeds: the seed of every episode; needed for snapshots.
            autoreset: see `NativeVectorEnv`.
        """
        high = bound.astype(np.float32)
        super().__init__(
            num_envs,
            spaces.Box(-high, high),
            spaces.Box(-force, force, (1,), np.float32),
            name=name,
            rebuild=rebuild,
            max_episode_steps=max_episode_steps or MAX_STEPS,
            episode_seeds=episode_seeds,
            autoreset=autoreset,
        )
        self._force = force
        self._random = [seeding.np_random(None)[0] for _ in range(num_envs)]

    @abc.abstractmethod
    def _move(self, state: Array, force: Array) -> None:
        """One step of `state` [N, dim] in place under `force` [N]; sets `exact_rewards` and `_terminations`."""

    @abc.abstractmethod
    def _first_state(self, random: np.random.Generator) -> Array:
        """Where an episode begins, [dim]."""

    def _simulate(self, actions: NDArray) -> Failed:
        force = np.clip(actions[:, 0].astype(np.float64), -self._force, self._force)
        self._move(self.exact_observations, force)
        return []

    def _seed(self, index: int, seed: int) -> None:
        self._random[index] = seeding.np_random(seed)[0]

    def _begin_episode(self, index: int) -> None:
        self.exact_observations[index] = self._first_state(self._random[index])

    def _snapshot(self) -> dict[str, Any]:
        return {
            "exact_observations": self.exact_observations.copy(),
            "random": [random.bit_generator.state for random in self._random],
        }

    def _restore(self, index: int, snapshot: dict[str, Any]) -> None:
        self.exact_observations[index] = snapshot["exact_observations"][index]
        self._random[index].bit_generator.state = snapshot["random"][index]


class SparseMountainCarEnv(_StateSpaceEnv):
    """An underpowered car in a valley: 1 for reaching the top of the right hill, which ends the episode, else 0.

    The motion, the beginning and the goal are those of gymnasium's `MountainCar-v0` (Moore 1990), with every force
    between its two. The engine of `MountainCarContinuous-v0` is half as strong again, which makes the top easier to
    reach by noise. State: position and velocity. Action: the engine, -1 to 1.
    """

    POWER, GRAVITY, MAX_SPEED = 0.001, 0.0025, 0.07
    LEFT, RIGHT, GOAL = -1.2, 0.6, 0.5

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        super().__init__(num_envs, np.array([1.2, self.MAX_SPEED]), 1.0, **kwargs)
        self.plane = Plane(("position", "velocity"), (self.LEFT, -self.MAX_SPEED), (self.RIGHT, self.MAX_SPEED))

    def in_plane(self) -> Array:
        """As `ColumnVectorEnv.in_plane`."""
        return self.exact_observations

    def _move(self, state: Array, force: Array) -> None:
        position, velocity = state[:, 0], state[:, 1]
        velocity += force * self.POWER - self.GRAVITY * np.cos(3 * position)
        np.clip(velocity, -self.MAX_SPEED, self.MAX_SPEED, out=velocity)
        position += velocity
        np.clip(position, self.LEFT, self.RIGHT, out=position)
        velocity[(position == self.LEFT) & (velocity < 0)] = 0.0
        np.logical_and(position >= self.GOAL, velocity >= 0, out=self._terminations)
        self.exact_rewards[:] = self._terminations

    def _first_state(self, random: np.random.Generator) -> Array:
        return np.array([random.uniform(-0.6, -0.4), 0.0])


class SparseCartPoleSwingupEnv(_StateSpaceEnv):
    """A pole on a cart that begins hanging: 1 for every step with `cos(angle) > 0.8`, else 0; ends off the track.

    rllab's swing-up, which VIME made sparse: its masses, lengths, forces, time step of 0.05 s, beginning, and track of
    3 m to each side. State: position, velocity, angle (0 is up, counterclockwise, not wrapped), angular velocity.
    Action: force in N, -10 to 10.

    The motion is that of the engine there, Box2D, whose bodies move freely in a step and are pulled together after it.
    The pole's center then still has the direction it had an angle of `spin * 0.05 s` ago, and a fast pole loses
    much of its energy in each step: it needs a push that is timed. Exact equations of motion lose none, and mere
    noise then brings one episode in 26 over the top, often to stay there, spinning.
    """

    CART, POLE, LENGTH, WIDTH, GRAVITY, TRACK = 1.0, 0.1, 1.0, 0.1, 10.0, 3.0
    SECONDS = 0.05
    INERTIA = POLE * (LENGTH**2 + WIDTH**2) / 12
    """Of the pole, around its center."""

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        super().__init__(num_envs, np.array([2 * self.TRACK, np.inf, np.inf, np.inf]), 10.0, **kwargs)

    def _arm(self, angle: Array) -> Array:
        """From the pole's center to the hinge, [2, N]."""
        return 0.5 * self.LENGTH * np.stack([np.sin(angle), -np.cos(angle)])

    def _pull(self, gap: Array, arm: Array) -> tuple[Array, Array]:
        """The impulses at the hinge that undo `gap`, the pole's lead over the cart there, [2, N].

        Returns them as the pole feels them, [2, N] (the cart feels the opposite along its track), and the turn [N] that
        they give the pole. Of velocities, or likewise of positions.
        """
        across, along = arm
        a = 1 / self.POLE + 1 / self.CART + along**2 / self.INERTIA
        b = -across * along / self.INERTIA
        c = 1 / self.POLE + across**2 / self.INERTIA
        impulses = np.stack([b * gap[1] - c * gap[0], b * gap[0] - a * gap[1]]) / (a * c - b * b)
        return impulses, (across * impulses[1] - along * impulses[0]) / self.INERTIA

    def _move(self, state: Array, force: Array) -> None:
        h, (position, velocity, angle, spin) = self.SECONDS, state.T
        arm = self._arm(angle - h * spin)
        center = np.stack([velocity + spin * arm[1], -spin * arm[0] - h * self.GRAVITY])  # velocity of the pole's
        velocity += h / self.CART * force
        arm = self._arm(angle)
        gap = center + np.stack([-spin * arm[1], spin * arm[0]])
        gap[0] -= velocity
        impulses, turn = self._pull(gap, arm)
        center += impulses / self.POLE
        velocity -= impulses[0] / self.CART
        spin += turn
        place = h * center - arm
        place[0] += position
        position += h * velocity
        angle += h * spin
        arm = self._arm(angle)
        gap = place + arm
        gap[0] -= position
        impulses, turn = self._pull(gap, arm)
        position -= impulses[0] / self.CART
        angle += turn
        np.greater(np.abs(position), self.TRACK, out=self._terminations)
        self.exact_rewards[:] = (np.cos(angle) > 0.8) & ~self._terminations

    def _first_state(self, random: np.random.Generator) -> Array:
        low, high = np.array([-1, -2, np.pi - 1, -3]), np.array([1, 2, np.pi + 1, 3])
        return random.uniform(low, high)
