"""Policies outside of training: callables on an environment's observations, and files that need nothing of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from small_modules import make_module

from quadriga.platform.environments.registry import make_env
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.environments.spaces import flat_action_space, flat_observation_space
from quadriga.platform.errors import UserError
from quadriga.platform.statistics import RunningMoments
from quadriga.policies import policy as policies
from quadriga.policies.deployment import Agent, agent, export
from quadriga.policies.experiment import RLExperiment
from quadriga.policies.policy import Policy

DISCRETE, CONTINUOUS, HALF_BOUNDED = "CartPole-v1", "Pendulum-v1", "awkward_environments:HalfBounded-v0"
# Blocks Ray and everything of ours, so that a file that needs either cannot be read.
ALONE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "quadriga"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import numpy as np
observations = np.load(sys.argv[2])
"""
READERS = {
    ".pt": "import torch; actions = torch.jit.load(sys.argv[1])(torch.from_numpy(observations)).numpy()",
    ".pt2": "import torch; actions = torch.export.load(sys.argv[1]).module()(torch.from_numpy(observations)).numpy()",
    ".onnx": "import onnxruntime; session = onnxruntime.InferenceSession(sys.argv[1]); "
    "actions = session.run(None, {'observations': observations})[0]",
}


def make_checkpoint(folder: Path, env_id: str, activation: str = "tanh") -> RLExperiment:
    """A policy with a normalizer that has seen something, for an environment."""
    experiment = RLExperiment.model_validate(
        {"preset": "ppo", "env": {"id": env_id}, "network": {"kind": "mlp", "activation": activation}}
    )
    env = make_env(experiment.env)
    flat = flat_observation_space(env.observation_space, env_id)
    module = make_module(flat_action_space(env.action_space, env_id), activation, obs_dim=flat.shape[0])
    seen = np.random.default_rng(0).normal(0.3, 2.0, (200, flat.shape[0]))
    module.normalizer.merge(RunningMoments.from_batch(seen))
    policies.save(module.get_state(), folder)
    env.close()
    return experiment


def observations_of(env_id: str, count: int = 500) -> np.ndarray:
    """Raw observations float32 [count, obs_dim], some far outside of what was seen."""
    env = make_env(EnvironmentSettings(id=env_id))
    dim = flat_observation_space(env.observation_space, env_id).shape[0]
    env.close()
    return np.random.default_rng(1).normal(0, 8, (count, dim)).astype(np.float32)


@pytest.mark.parametrize("env_id", [DISCRETE, CONTINUOUS])
def test_an_agent_acts_as_the_policy_does(tmp_path: Path, env_id: str) -> None:
    experiment = make_checkpoint(tmp_path, env_id)
    acting = agent(experiment, tmp_path)
    observations = observations_of(env_id)
    flat = flat_action_space(acting.action_space, env_id)
    expected = Policy.load(tmp_path, activation="tanh", action_space=flat)(observations)
    np.testing.assert_array_equal(acting(observations), expected)
    one = acting(observations[0])
    np.testing.assert_allclose(one, expected[0], rtol=1e-5)
    assert acting.action_space.contains(one)


def test_actions_are_drawn_with_a_generator_and_only_with_it(tmp_path: Path) -> None:
    acting = agent(make_checkpoint(tmp_path, CONTINUOUS), tmp_path)
    observations = observations_of(CONTINUOUS)
    first, second = (acting(observations, np.random.default_rng(0)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (acting(observations) == acting(observations)).all() and (first != acting(observations)).any()


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 4), ()])
def test_observations_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    acting = agent(make_checkpoint(tmp_path, DISCRETE), tmp_path)
    with pytest.raises(ValueError, match=r"observations: expected shape \(4,\) or \(N, 4\), got"):
        acting(np.zeros(shape))


def test_discrete_actions_count_from_where_the_space_does_and_nested_observations_are_encoded(tmp_path: Path) -> None:
    space = gym.spaces.Dict({"a": gym.spaces.Discrete(3), "b": gym.spaces.Box(-1, 1, (2, 2))})
    actions = gym.spaces.Discrete(4, start=10)
    module = make_module(gym.spaces.Discrete(4), "relu", obs_dim=7)
    policies.save(module.get_state(), tmp_path)
    loaded = Policy.load(tmp_path, activation="relu", action_space=gym.spaces.Discrete(4))
    acting = Agent(loaded, space, actions)
    assert actions.contains(acting(space.sample()))
    several = acting([space.sample() for _ in range(6)])
    assert several.shape == (6,) and several.min() >= 10


@pytest.mark.parametrize("env_id", [DISCRETE, CONTINUOUS, HALF_BOUNDED])
@pytest.mark.parametrize("ending", list(READERS))
def test_an_exported_policy_acts_the_same_without_ray_and_without_quadriga(
    tmp_path: Path, env_id: str, ending: str
) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    activation = "relu" if env_id == DISCRETE else "tanh"
    experiment = make_checkpoint(tmp_path, env_id, activation)
    file = tmp_path / f"exported{ending}"
    export(experiment, tmp_path, file)
    observations = observations_of(env_id)
    np.save(tmp_path / "observations.npy", observations)
    program = f"{ALONE}\n{READERS[ending]}\nnp.save(sys.argv[3], actions)"
    arguments = [str(file), str(tmp_path / "observations.npy"), str(tmp_path / "actions.npy")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, cwd=tmp_path)
    actions, expected = np.load(tmp_path / "actions.npy"), agent(experiment, tmp_path)(observations)
    assert actions.dtype == (np.int64 if env_id == DISCRETE else np.float32)
    np.testing.assert_allclose(actions, expected, rtol=1e-6, atol=1e-6)
    if env_id == HALF_BOUNDED:
        assert (actions[:, 0] >= 0).all() and (actions[:, 0] == 0).any()


def test_another_ending_is_refused(tmp_path: Path) -> None:
    experiment = make_checkpoint(tmp_path, DISCRETE)
    with pytest.raises(UserError, match=r"expected a file name that ends with \.pt \(TorchScript\), \.pt2"):
        export(experiment, tmp_path, tmp_path / "policy.tflite")
