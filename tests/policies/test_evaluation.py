from __future__ import annotations

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from small_modules import make_module

from quadriga.platform.environments.registry import make_vector_env
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.errors import UserError
from quadriga.platform.lines import EvaluationRequest
from quadriga.policies import policy
from quadriga.policies.evaluation import evaluate
from quadriga.policies.experiment import RLExperiment


def make_checkpoint(folder: Path, env_id: str) -> RLExperiment:
    """An untrained policy for an environment."""
    experiment = RLExperiment(preset="ppo", env=EnvironmentSettings(id=env_id))
    env = make_vector_env(experiment.env, 1)
    module = make_module(env.single_action_space, "tanh", obs_dim=env.single_observation_space.shape[0])
    policy.save(module.get_state(), folder)
    env.close()
    return experiment


@pytest.mark.parametrize("episodes", [1, 5, 20])
def test_exactly_the_requested_episodes_are_played(tmp_path: Path, episodes: int) -> None:
    experiment = make_checkpoint(tmp_path, "faulty_environments:Ramp-v0")
    samples = evaluate(experiment, tmp_path, EvaluationRequest(episodes=episodes))
    assert samples["return"] == [55.0] * episodes
    assert samples["length"] == [10.0] * episodes
    assert all(0 <= cost <= 10 for cost in samples["cost"])


def test_the_same_seed_plays_the_same_episodes(tmp_path: Path) -> None:
    experiment = make_checkpoint(tmp_path, "CartPole-v1")

    def play(seed: int, deterministic: bool) -> list[float]:
        request = EvaluationRequest(episodes=6, seed=seed, deterministic=deterministic)
        return list(evaluate(experiment, tmp_path, request)["return"])

    assert play(0, False) == play(0, False)
    assert play(0, False) != play(1, False)
    assert play(0, True) != play(0, False)


def test_short_episodes_are_not_preferred(tmp_path: Path) -> None:
    """Each environment plays its share: what the first to finish would be is never asked."""
    experiment = make_checkpoint(tmp_path, "CartPole-v1")
    few = evaluate(experiment, tmp_path, EvaluationRequest(episodes=8, deterministic=False))["length"]
    many = evaluate(experiment, tmp_path, EvaluationRequest(episodes=16, deterministic=False))["length"]
    assert set(few) <= set(many), "the first episode of every environment is among them"


@pytest.mark.parametrize("name", ["episode.gif", "episode.mp4"])
def test_the_video_shows_one_episode(tmp_path: Path, name: str) -> None:
    experiment = make_checkpoint(tmp_path, "CartPole-v1")
    video = tmp_path / name
    request = EvaluationRequest(episodes=1, video=video)
    length = evaluate(experiment, tmp_path, request)["length"][0]
    frames = imageio.imread(video, index=None) if name.endswith("gif") else imageio.imread(video, plugin="FFMPEG")
    stride = 2 if name.endswith("gif") else 1
    assert abs(len(frames) - (length + 1) / stride) <= 1
    assert np.asarray(frames[0]).std() > 0, "something is drawn"


def test_a_video_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    experiment = make_checkpoint(tmp_path, "CartPole-v1")
    with pytest.raises(UserError, match=r"expected a name that ends in \.mp4 or \.gif"):
        evaluate(experiment, tmp_path, EvaluationRequest(video=tmp_path / "episode.avi"))
    with pytest.raises(UserError, match="does not exist"):
        evaluate(experiment, tmp_path, EvaluationRequest(video=tmp_path / "missing" / "episode.gif"))


def test_a_checkpoint_without_a_policy_is_named(tmp_path: Path) -> None:
    experiment = RLExperiment(preset="ppo", env=EnvironmentSettings(id="CartPole-v1"))
    with pytest.raises(UserError, match=r"holds no policy\.npz"):
        evaluate(experiment, tmp_path, EvaluationRequest())
