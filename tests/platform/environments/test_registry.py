import sys
import textwrap

import gymnasium
import numpy as np
import pytest

from quadriga.platform.environments.registry import list_environments, make_env, make_vector_env
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.errors import UserError


def make(id, render_mode=None, **settings):
    return make_env(EnvironmentSettings(id=id, **settings), render_mode)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("SafetyPointGaol1-v0", "unknown environment 'SafetyPointGaol1-v0'; did you mean 'SafetyPointGoal1-v0'?"),
        ("CartPole", "unknown environment 'CartPole'; did you mean 'CartPole-v1'?"),
        ("halfcheetah-v5", "did you mean 'HalfCheetah-v5'?"),
        ("Zzzzz-v9", "unknown environment 'Zzzzz-v9'; see: quadriga list environments"),
        ("SafetyPointGoal1Vision-v0", "'SafetyPointGoal1Vision-v0' is not supported: it is made for images"),
        ("SafetyRacecarRace1-v0", "'SafetyRacecarRace1-v0' is not supported"),
        ("no_such_module:Some-v0", "cannot import 'no_such_module'"),
    ],
)
def test_unknown_id_is_one_clear_line(id, message):
    with pytest.raises(UserError) as caught:
        make(id)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("id", "kwargs", "message"),
    [
        ("HalfCheetah-v5", {"gravity": 1}, "unexpected keyword argument 'gravity'"),
        ("FrozenLake-v1", {"map_name": "9x9"}, "'FrozenLake-v1' cannot be made with env.kwargs {'map_name': '9x9'}"),
        ("SafetyPointGoal1-v0", {"speed": 2}, "unexpected keyword argument 'speed'"),
        ("SafetyPointGoal1-v0", {"config": {"lidar_conf.nope": 1}}, "Bad key nope"),
    ],
)
def test_wrong_argument_is_one_clear_line(id, kwargs, message):
    with pytest.raises(UserError) as caught:
        make(id, kwargs=kwargs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"'LunarLander-v3'.*Box2D is not installed"):
        make("LunarLander-v3")


def test_unsupported_spaces_are_refused_by_name():
    class Talker(gymnasium.Env):
        observation_space = gymnasium.spaces.Text(5)
        action_space = gymnasium.spaces.Discrete(2)

    class Mixer(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 1, (2,))
        action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    for env, named in ((Talker, "observation space Text"), (Mixer, "action space MultiDiscrete")):
        id = f"test/{env.__name__}-v0"
        gymnasium.register(id, entry_point=env)
        try:
            with pytest.raises(UserError, match=rf"'{id}': {named} is not supported; supported: "):
                make_vector_env(EnvironmentSettings(id=id), 2)
        finally:
            del gymnasium.registry[id]


def test_module_and_id_imports_the_module_that_registers_the_environment(tmp_path, monkeypatch):
    (tmp_path / "corridor_module.py").write_text(
        textwrap.dedent("""
            import gymnasium
            from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
            gymnasium.register("Corridor-v0", entry_point=FrozenLakeEnv, max_episode_steps=7, kwargs={"desc": ["SFFG"]})
            """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        env = make_vector_env(EnvironmentSettings(id="corridor_module:Corridor-v0"), 1)
        assert env.single_observation_space.shape == (4,)
    finally:
        gymnasium.registry.pop("Corridor-v0", None)


def test_nested_observations_are_flattened():
    env = make_vector_env(EnvironmentSettings(id="Blackjack-v1"), 2)
    observations, _ = env.reset(seed=0)
    assert observations.shape == (2, 32 + 11 + 2)
    assert (observations.sum(1) == 3).all(), "three one-hot parts"


@pytest.mark.parametrize("id", ["Pendulum-v1", "SafetyPointCircle1-v0"])
@pytest.mark.parametrize("limit", [3, None])
def test_time_limit_is_the_registered_one_unless_given(id, limit):
    env = make(id, max_episode_steps=limit)
    env.reset(seed=0)
    lengths = {"Pendulum-v1": 200, "SafetyPointCircle1-v0": 500}
    steps, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        *_, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape, np.float32))
        steps += 1
    assert (steps, bool(terminated), bool(truncated)) == (limit or lengths[id], False, True)


def test_time_limit_can_be_longer_than_the_registered_one():
    env = make("SafetyPointRun0-v0", max_episode_steps=510)
    env.reset(seed=0)
    flags = [env.step(np.zeros(2))[2:4] for _ in range(510)]
    assert [step for step, flag in enumerate(flags, 1) if any(flag)] == [510]


def test_environment_without_a_cost_reports_none():
    env = make("CartPole-v1")
    env.reset(seed=0)
    assert env.step(0)[4]["cost"] == 0.0


def test_render_mode_that_the_environment_lacks_is_named_with_those_it_has():
    with (
        pytest.warns(UserWarning, match="not in the possible render_modes"),
        pytest.raises(UserError, match="cannot render 'ansi'; its render modes: human, rgb_array"),
    ):
        make("CartPole-v1", render_mode="ansi")


def test_list_has_unique_known_ids_safety_first():
    rows = list_environments()
    ids = [row.id for row in rows]
    assert len(set(ids)) == len(ids)
    assert {"CartPole-v1", "HalfCheetah-v5", "SafetyPointGoal1-v0", "SafetyHalfCheetahVelocity-v1"} <= set(ids)
    assert "HalfCheetah-v4" not in ids
    assert rows[0].family == "safety navigation"
    assert all(row.family and row.summary for row in rows)
