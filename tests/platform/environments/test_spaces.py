import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from quadriga.platform.environments.spaces import (
    action_decoder,
    flat_action_space,
    flat_observation_space,
    observation_encoder,
)
from quadriga.platform.errors import UserError

NESTED = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (2, 3), np.uint8),
        "pose": spaces.Tuple((spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(4, start=1))),
        "switches": spaces.MultiBinary(3),
        "dials": spaces.MultiDiscrete([2, 3]),
    }
)


@pytest.mark.parametrize(
    "space",
    [spaces.Box(-1, 1, (5,), np.float64), spaces.Box(0, 255, (4, 4, 3), np.uint8), spaces.Discrete(7), NESTED],
    ids=lambda space: type(space).__name__,
)
def test_observations_are_flattened_as_gymnasium_flattens_them(space):
    space.seed(3)
    observation = space.sample()
    flat = flat_observation_space(space, "Some-v0")
    encode = observation_encoder(space)
    vector = np.asarray(observation if encode is None else encode(observation), np.float32)
    assert flat.dtype == np.float32
    assert vector.shape == flat.shape
    np.testing.assert_array_equal(vector, spaces.flatten(space, observation).astype(np.float32))


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.Text(10), "Text"),
        (spaces.Sequence(spaces.Discrete(2)), "Sequence"),
        (spaces.Graph(spaces.Box(0, 1, (2,)), None), "Graph"),
        (spaces.Dict(deep=spaces.Tuple((spaces.Discrete(2), spaces.Text(3)))), "Text"),
    ],
)
def test_unsupported_observation_space_is_named_with_what_is_supported(space, named):
    with pytest.raises(UserError, match=rf"'Some-v0'.*{named}.*supported: Box, Discrete.*Dict or Tuple"):
        flat_observation_space(space, "Some-v0")


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.MultiDiscrete([2, 3]), "MultiDiscrete"),
        (spaces.Dict(a=spaces.Discrete(2)), "Dict"),
        (spaces.Box(0, 5, (2,), np.int32), "Box of int32"),
    ],
)
def test_unsupported_action_space_is_named_with_what_is_supported(space, named):
    with pytest.raises(UserError, match=rf"'Some-v0'.*{named}.*supported: Box of floats, Discrete"):
        flat_action_space(space, "Some-v0")


def test_discrete_actions_count_from_zero_whatever_the_space_starts_at():
    space = spaces.Discrete(3, start=-1)
    assert flat_action_space(space, "Some-v0") == spaces.Discrete(3)
    assert action_decoder(space)(np.array([0, 1, 2])) == [-1, 0, 1]


def test_action_matrix_is_a_vector_outside_and_a_matrix_inside():
    space = spaces.Box(-2.0, 3.0, (2, 2), np.float64)
    flat = flat_action_space(space, "Some-v0")
    assert flat == spaces.Box(-2.0, 3.0, (4,), np.float32)
    action = next(iter(action_decoder(space)(np.arange(4, dtype=np.float32)[None])))
    np.testing.assert_array_equal(action, [[0, 1], [2, 3]])


def test_environment_that_changes_its_action_leaves_the_column_alone():
    column = np.ones((1, 2), np.float32)
    for action in action_decoder(gymnasium.spaces.Box(-1.0, 1.0, (2,)))(column):
        action *= 0
    assert column.tolist() == [[1, 1]]
