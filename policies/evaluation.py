"""Playing episodes with a saved policy, as many in each environment as in any other.

Counting the first episodes to finish would prefer short ones; so every environment of the vector
plays its own share, and what it plays beyond is not counted.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import gymnasium as gym
import numpy as np

from quadriga.platform.environments.registry import make_env, make_vector_env
from quadriga.platform.environments.seeds import EpisodeSeeds
from quadriga.platform.environments.spaces import action_decoder, observation_encoder
from quadriga.platform.lines import EvaluationRequest
from quadriga.platform.video import VideoWriter, check_video_path
from quadriga.policies.experiment import RLExperiment
from quadriga.policies.policy import Policy

MAX_ENVS = 8
STREAM = 2**31
"""In place of a runner's number in the entropy of seeds: evaluation never replays training episodes."""


def evaluate(experiment: RLExperiment, checkpoint: Path, request: EvaluationRequest) -> dict[str, list[float]]:
    """Plays `request.episodes` episodes.

    Returns:
        One value an episode, in a fixed order: undiscounted `return` and `cost`, `length` in steps.

    Raises:
        UserError: no policy in the checkpoint, or a video that cannot be made.
        EnvironmentFailed: an environment raised and the setting is to stop, or it keeps failing.
    """
    if request.video is not None:
        check_video_path(request.video)
    num_envs = min(MAX_ENVS, request.episodes)
    with contextlib.ExitStack() as opened:
        filmed = None
        if request.video is not None:  # made before anything is played, since not every environment can be drawn
            filmed = make_env(experiment.env, render_mode="rgb_array")
            opened.callback(filmed.close)
        env = make_vector_env(experiment.env, num_envs, episode_seeds=EpisodeSeeds((request.seed, STREAM)))
        opened.callback(env.close)
        policy = Policy.load(checkpoint, activation=experiment.network.activation, action_space=env.single_action_space)
        rng = None if request.deterministic else np.random.default_rng((request.seed, STREAM))
        samples = _play(env, policy, rng, request.episodes)
        if filmed is not None:
            _film(filmed, policy, request)
    return samples


def _play(
    env: gym.vector.VectorEnv, policy: Policy, rng: np.random.Generator | None, episodes: int
) -> dict[str, list[float]]:
    shares = [episodes // env.num_envs + (n < episodes % env.num_envs) for n in range(env.num_envs)]
    played: list[list[tuple[float, float, int]]] = [[] for _ in range(env.num_envs)]
    returns, costs, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
    observations = env.reset()[0]
    while any(len(done) < share for done, share in zip(played, shares, strict=True)):
        observations, rewards, terminations, truncations, infos = env.step(policy(observations, rng))
        returns += rewards
        costs += infos["cost"]
        lengths += 1
        ended = terminations | truncations
        for n in np.flatnonzero(ended):
            if len(played[n]) < shares[n]:
                played[n].append((float(returns[n]), float(costs[n]), int(lengths[n])))
        lost = infos.get("failed", False)
        policy.forget(ended | lost)
        for totals in (returns, costs, lengths):
            totals[ended | lost] = 0
    episodes_played = [episode for done in played for episode in done]
    return {
        name: [float(episode[k]) for episode in episodes_played] for k, name in enumerate(("return", "cost", "length"))
    }


def _film(env: gym.Env, policy: Policy, request: EvaluationRequest) -> None:
    """One episode from the seed of the first evaluated one, drawn frame by frame."""
    assert request.video is not None
    encode = observation_encoder(env.observation_space) or (lambda observation: observation)
    decode = action_decoder(env.action_space)
    rng = None if request.deterministic else np.random.default_rng((request.seed, STREAM))
    policy.forget()
    fps = int(env.metadata.get("render_fps") or 30)
    observation, _ = env.reset(seed=EpisodeSeeds((request.seed, STREAM)).seed(0, 0))
    with VideoWriter(request.video, fps) as video:
        done = False
        while not done:
            video.add(np.asarray(env.render()))
            column = np.asarray(encode(observation), np.float32)[None]
            (action,) = decode(policy(column, rng))
            observation, _, terminated, truncated, _ = env.step(action)
            done = bool(terminated or truncated)
        video.add(np.asarray(env.render()))
