import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quadriga.platform.environments.replay import ActionLog


@settings(deadline=None)
@given(st.data())
def test_log_holds_exactly_the_actions_of_each_episode_in_progress(data):
    num_envs = data.draw(st.integers(1, 3))
    max_replay = data.draw(st.sampled_from([5, 1500, 4000]))
    lengths = [data.draw(st.integers(1, 3000)) for _ in range(num_envs)]
    log = ActionLog(num_envs, np.zeros((0, 2), np.float32), max_replay)
    expected = [[] for _ in range(num_envs)]
    for time in range(data.draw(st.integers(0, 3500))):
        actions = np.full((num_envs, 2), time, np.float32)
        log.record(actions)
        for index in range(num_envs):
            expected[index].append(time)
            if (time + 1) % lengths[index] == 0:
                log.begin(index)
                expected[index] = []
    for index in range(num_envs):
        episode = log.episode(index)
        if len(expected[index]) > max_replay:
            assert episode is None
        else:
            assert episode.shape == (len(expected[index]), 2)
            assert episode[:, 0].tolist() == expected[index]


def test_restored_log_goes_on_where_it_was():
    log = ActionLog(2, np.zeros(0, np.int64))
    log.restore([np.arange(3), np.arange(2000)])
    log.record(np.array([7, 8]))
    assert log.episode(0).tolist() == [0, 1, 2, 7]
    assert log.episode(1).tolist() == [*range(2000), 8]


def test_given_out_episode_does_not_change_with_the_log():
    log = ActionLog(1, np.zeros(0, np.int64))
    log.record(np.array([1]))
    episode = log.episode(0)
    log.restore([np.array([5])])
    assert episode.tolist() == [1]
