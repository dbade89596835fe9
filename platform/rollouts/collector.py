"""Collecting columns: one policy snapshot, one vector environment, `T` steps.

The hot path of reinforcement learning here: preallocated arrays, one forward pass a step, no
episode objects. It knows nothing of Ray; the environment runner around it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from quadriga.platform.environments.planes import Visits
from quadriga.platform.environments.registry import make_vector_env
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.errors import TrainingStopped
from quadriga.platform.rollouts.actors import ActionScale, Actor
from quadriga.platform.rollouts.advantages import generalized_advantages
from quadriga.platform.rollouts.columns import ColumnBatch, EpisodeRecords, Rollout
from quadriga.platform.rollouts.plan import COST, INTRINSIC, REWARD, RolloutPlan
from quadriga.platform.rollouts.recurrent import RecurrentActor, Tape
from quadriga.platform.statistics import RunningMoments

Bonus = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Intrinsic rewards [B] of raw states [B, obs_dim], actions and next states."""


class Collector:
    """Steps a vector environment under a policy and keeps the episodes that are under way between requests.

    Args:
        plan: what to collect.
        entropy: keys every random stream of this collector: (seed, runner, iteration of its start).
    """

    def __init__(self, plan: RolloutPlan, entropy: tuple[int, ...]) -> None:
        self.plan = plan
        self.entropy = entropy
        self.env = make_vector_env(plan.env, plan.num_envs, episode_seeds=EpisodeSeeds(entropy))
        space = self.env.single_action_space
        self.discrete = isinstance(space, gym.spaces.Discrete)
        self._scale = ActionScale(space) if isinstance(space, gym.spaces.Box) else None
        self._discounts = np.array([stream.discount for stream in plan.streams], np.float32)
        self._episodic = np.array([stream.episodic for stream in plan.streams])
        self._gae_lambdas = np.array([stream.gae_lambda for stream in plan.streams], np.float32)
        self._observations: np.ndarray | None = None
        self._returns = np.zeros(plan.num_envs)
        self._costs = np.zeros(plan.num_envs)
        self._lengths = np.zeros(plan.num_envs, np.int64)
        self._memory: np.ndarray | None = None

    def collect(self, actor: Actor, steps: int, rng: np.random.Generator, bonus: Bonus | None = None) -> Rollout:
        """`steps` steps of every environment.

        Args:
            actor: the policy's snapshot.
            steps: how many.
            rng: of the actions.
            bonus: the intrinsic reward, if there is one.

        Raises:
            TrainingStopped: an observation, reward or cost is not finite.
            EnvironmentFailed: an environment raised and the setting is to stop, or it keeps failing.
        """
        if self._observations is None:
            self._observations = self.env.reset()[0].copy()
        num_envs, obs_dim = self._observations.shape
        raw = np.empty((steps + 1, num_envs, obs_dim), np.float32)
        observations = np.empty_like(raw)
        distributions = np.empty((steps, num_envs, actor.dist_dim), np.float32)
        actions = np.empty((steps, num_envs), np.int64) if self.discrete else np.empty_like(distributions)
        rewards = np.empty((steps, num_envs), np.float32)
        costs = np.empty((steps, num_envs), np.float32)
        terminations = np.empty((steps, num_envs), bool)
        truncations = np.empty((steps, num_envs), bool)
        valid = np.ones((steps, num_envs), bool)
        final_steps: list[tuple[int, int]] = []
        final_observations: list[np.ndarray] = []
        noise = actor.noise(rng, steps, num_envs)
        plane = self.env.plane
        places = None if plane is None else np.empty((steps, num_envs, 2))
        env_actions = np.empty((num_envs, actor.dist_dim), np.float32)

        tape, final_values = self._tape(actor, steps), []
        policy = actor.policy if tape is None else tape.act
        step, sample, normalize = self.env.step, actor.sample, actor.normalize
        raw[0] = self._observations
        normalize(raw[0], observations[0])
        for t in range(steps):
            distributions[t] = policy(observations[t])
            action = actions[t] = sample(distributions[t], noise[t])
            if self._scale is not None:
                action = self._scale(action, env_actions)
            raw[t + 1], rewards[t], terminations[t], truncations[t], infos = step(action)
            costs[t] = infos["cost"]
            if places is not None:
                places[t] = self.env.in_plane()[:, :2]
            if (terminations[t] | truncations[t]).any():
                if places is not None and "final_place" in infos:
                    over = terminations[t] | truncations[t]
                    places[t, over] = infos["final_place"][over]
                ended = truncations[t] & ~terminations[t] if bonus is None else truncations[t] | terminations[t]
                for n in np.flatnonzero(ended):
                    final_steps.append((t, int(n)))
                    final = infos["final_obs"][n].copy()
                    final_observations.append(final)
                    if tape is not None:
                        final_values.append(tape.value(n, normalize(final, np.empty_like(final))))
            if "failed" in infos:
                valid[t] = ~infos["failed"]
            if tape is not None:
                tape.forget(terminations[t] | truncations[t] | ~valid[t])
            normalize(raw[t + 1], observations[t + 1])

        self._observations = raw[steps]
        self._check_finite(raw, rewards, costs, final_steps, final_observations)
        if tape is None:
            values = actor.values(observations.reshape(-1, obs_dim)).reshape(steps + 1, num_envs, -1)
        else:
            values, self._memory = tape.close(observations[steps]), tape.states
        next_values = values[1:].copy()
        next_raw = raw[1:] if bonus is None else raw[1:].copy()
        if final_steps:
            finals = np.stack(final_observations)
            index = tuple(np.array(final_steps).T)
            if tape is None:
                next_values[index] = actor.values(actor.normalize(finals, np.empty_like(finals)))
            else:
                next_values[index] = np.stack(final_values)
            if bonus is not None:
                next_raw[index] = finals
        next_values[terminations] = 0.0
        next_values[..., ~self._episodic] = values[1:][..., ~self._episodic]
        values = values[:-1]
        columns = {REWARD: rewards, COST: costs, INTRINSIC: np.zeros_like(rewards)}
        stream_rewards = np.stack([columns[s.name] * np.float32(s.scale) for s in self.plan.streams], axis=-1)
        dones = terminations | truncations
        if not valid.all():
            # A lost step gets advantage 0 and ends nothing before it: r := V(s), V(s') := 0.
            stream_rewards[~valid] = values[~valid]
            next_values[~valid] = 0.0
        ends = (dones[..., None] & self._episodic) | ~valid[..., None]
        advantages = generalized_advantages(
            stream_rewards, values, next_values, ends, self._discounts, self._gae_lambdas
        )
        episodes = self._account(rewards, costs, dones, valid)
        batch = ColumnBatch(
            observations=observations[:-1].reshape(-1, obs_dim),
            actions=actions.reshape(steps * num_envs, *actions.shape[2:]),
            log_probs=actor.log_probs(distributions, actions, noise).reshape(-1),
            distributions=distributions.reshape(-1, actor.dist_dim),
            advantages=advantages.reshape(steps * num_envs, -1).T,
            value_targets=(advantages + values).reshape(steps * num_envs, -1).T,
        )
        if bonus is not None:
            self._add_bonus(batch, bonus, raw[:-1], next_raw, ends, terminations, valid)
        if tape is not None:
            batch = tape.arrange(batch, valid)
        elif not valid.all():
            batch = batch.rows(valid.reshape(-1))
        return Rollout(
            shards=[batch],
            env_steps=int(valid.sum()),
            cost_sum=float(costs[valid].sum(dtype=np.float64)),
            episodes=episodes,
            visits=None if plane is None or places is None else Visits.count(plane, places[valid]),
            moments=RunningMoments.from_batch(raw[:-1].reshape(-1, obs_dim)) if self.plan.collect_moments else None,
            environment_failures=int((~valid).sum()),
        )

    def _tape(self, actor: Actor, steps: int) -> Tape | None:
        """Of a policy with a memory, which goes on where the last rollout ended."""
        if not isinstance(actor, RecurrentActor):
            return None
        assert self.plan.sequence_length is not None
        if self._memory is None:
            self._memory = actor.begin(self.plan.num_envs)
        return Tape(actor, self._memory, steps, self.plan.sequence_length)

    def _add_bonus(
        self,
        batch: ColumnBatch,
        bonus: Bonus,
        raw: np.ndarray,
        next_raw: np.ndarray,
        ends: np.ndarray,
        terminations: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Fills the columns of the bonus: its advantages where its values are 0, and where rewards are 0, values 1."""
        batch.states = raw.reshape(len(batch), -1)
        batch.next_states = next_raw.reshape(len(batch), -1)
        batch.bonuses = bonus(batch.states, batch.actions, batch.next_states)
        names = [stream.name for stream in self.plan.streams]
        k = names.index(INTRINSIC if INTRINSIC in names else REWARD)
        rewards, values, next_values = np.zeros((3, *valid.shape, 2), np.float32)
        rewards[..., 0] = np.where(valid, batch.bonuses.reshape(valid.shape), np.float32(0))
        values[..., 1] = valid  # a lost step's advantage is 0, and it is followed by nothing
        next_values[..., 1] = valid & ~(terminations & self._episodic[k])
        both = generalized_advantages(
            rewards, values, next_values, ends[..., k], self._discounts[[k, k]], self._gae_lambdas[[k, k]]
        )
        batch.bonus_advantages, batch.bonus_baselines = np.ascontiguousarray(both.reshape(-1, 2).T)

    def _account(self, rewards: np.ndarray, costs: np.ndarray, dones: np.ndarray, valid: np.ndarray) -> EpisodeRecords:
        """Closes the episodes that ended, in the order in which they did, and carries the others on."""
        records = EpisodeRecords()
        begins = np.zeros(rewards.shape[1], np.int64)
        for t, n in np.argwhere(dones | ~valid):
            span = slice(begins[n], t + 1)
            self._extend(n, rewards[span, n], costs[span, n])
            if valid[t, n]:
                records.add(float(self._returns[n]), float(self._costs[n]), int(self._lengths[n]))
            self._returns[n] = self._costs[n] = self._lengths[n] = 0
            begins[n] = t + 1
        for n, begin in enumerate(begins):
            self._extend(n, rewards[begin:, n], costs[begin:, n])
        return records

    def _extend(self, n: int, rewards: np.ndarray, costs: np.ndarray) -> None:
        self._returns[n] += rewards.sum(dtype=np.float64)
        self._costs[n] += costs.sum(dtype=np.float64)
        self._lengths[n] += len(rewards)

    def _check_finite(
        self,
        raw: np.ndarray,
        rewards: np.ndarray,
        costs: np.ndarray,
        final_steps: list[tuple[int, int]],
        final_observations: list[np.ndarray],
    ) -> None:
        for what, column in (("observation", raw), ("reward", rewards), ("cost", costs)):
            if not np.isfinite(column).all():
                t, n = np.argwhere(~np.isfinite(column))[0][:2]
                self._refuse(what, np.atleast_1d(column[t, n]), t, n)
        # Those that a value or a bonus is taken of: what a simulation ends with that fell apart is nobody's business.
        for (t, n), final in zip(final_steps, final_observations, strict=True):
            if not np.isfinite(final).all():
                self._refuse("last observation", final, t, n)

    def _refuse(self, what: str, values: np.ndarray, t: int, n: int) -> None:
        raise TrainingStopped(
            f"environment {self.plan.env.id!r} returned the {what} {values[~np.isfinite(values)][0]} in step {t} of "
            f"this rollout (environment {n}); observations, rewards and costs must be finite"
        )

    def state(self) -> dict[str, Any]:
        """Everything that continues the episodes under way, as plain picklable data."""
        return {
            "entropy": self.entropy,
            "env": None if self._observations is None else self.env.state(),
            "returns": self._returns.copy(),
            "costs": self._costs.copy(),
            "lengths": self._lengths.copy(),
            "memory": None if self._memory is None else self._memory.copy(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continues from what `state` gave, in a collector of the same plan and entropy.

        Raises:
            ValueError: the state is of another number of environments.
            EnvironmentFailed: an environment that cannot be brought back cannot begin another episode either.
        """
        if state["env"] is None:
            return
        fresh = self.env.set_state(state["env"])
        self._observations = self.env.observations().copy()
        self._returns, self._costs, self._lengths = (state[key].copy() for key in ("returns", "costs", "lengths"))
        memory = state.get("memory")
        self._memory = None if memory is None else memory.copy()
        for n in fresh:
            self._returns[n] = self._costs[n] = self._lengths[n] = 0
            if self._memory is not None:
                self._memory[n] = 0

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()
