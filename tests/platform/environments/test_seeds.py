from hypothesis import given
from hypothesis import strategies as st

from quadriga.platform.environments.seeds import EpisodeSeeds

numbers = st.integers(0, 2**31)


@given(st.lists(numbers, min_size=1, max_size=3).map(tuple), numbers, numbers)
def test_seeds_are_valid_and_depend_on_nothing_but_their_key(entropy, env_index, episode):
    seed = EpisodeSeeds(entropy).seed(env_index, episode)
    assert 0 <= seed < 2**31
    assert seed == EpisodeSeeds(entropy).seed(env_index, episode)


def test_seeds_differ_between_runs_environments_and_episodes():
    keys = [(run, env, episode) for run in range(5) for env in range(8) for episode in range(50)]
    seeds = {EpisodeSeeds((0, run)).seed(env, episode) for run, env, episode in keys}
    assert len(seeds) == len(keys)
