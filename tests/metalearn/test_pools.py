"""Meta-batches on Ray: the same bits from any number of workers, also when one dies."""

import os
import signal

import numpy as np
import pytest

from quadriga.metalearn import pools
from quadriga.metalearn.pools import LocalPool, RayPool
from quadriga.metalearn.runner import SequentialRunner, Trial
from quadriga.metalearn.trainer import initial_weights, trial
from quadriga.metalearn.vectorized import VectorizedRunner
from quadriga.platform.errors import TrainingStopped, UserError

pytestmark = pytest.mark.usefixtures("ray_session")


def experiment_of(make_experiment, **fields):
    fields = {"update": {"kind": "reptile", "meta_batch": 5, "step_size": 1.0}, **fields}
    return make_experiment("glyphs", inner={"optimizer": "adam", "learning_rate": 1e-3}, **fields)


def start(pool_class, experiment, workers):
    return pool_class(experiment.model_copy(update={"compute": experiment.compute.model_copy(update=workers)}))


def advance(pool, experiment, iterations, phi):
    """Directions of some meta-iterations, each from weights that depend on those before."""
    found = []
    for iteration in iterations:
        directions = pool.train(phi, iteration).directions
        found.append(np.stack(directions))
        phi = phi + sum(directions) / len(directions)
    return found, phi


@pytest.fixture(scope="module")
def kill_actor():
    import ray

    def kill(worker):
        pid = ray.get(worker.__ray_call__.remote(lambda self: os.getpid()))
        os.kill(pid, signal.SIGKILL)

    return kill


def test_results_do_not_depend_on_the_number_of_workers(make_experiment):
    experiment = experiment_of(make_experiment)
    request = Trial((0, 9), tuple(range(7)), 1, 3, 3, True, True)
    results = []
    for workers in (0, 1, 2, 4):
        pool = LocalPool(experiment) if not workers else start(RayPool, experiment, {"workers": workers})
        phi = initial_weights(experiment, SequentialRunner(experiment).distribution)
        directions, phi = advance(pool, experiment, range(3), phi)
        results.append((np.stack(directions), pool.test(phi, request), pool.states()))
        pool.stop()
    for directions, measures, states in results[1:]:
        np.testing.assert_array_equal(directions, results[0][0])
        assert measures == results[0][1]
        for state, alone in zip(states, results[0][2], strict=True):
            np.testing.assert_array_equal(state["square"], alone["square"])
            assert int(state["steps"]) == int(alone["steps"]) == 15


def test_workers_on_other_machines_give_the_same_bits(make_experiment, kill_actor, monkeypatch):
    """Without shared memory all goes through the object store, as it does between machines."""
    experiment = experiment_of(make_experiment)
    phi = initial_weights(experiment, SequentialRunner(experiment).distribution)
    expected, _ = advance(LocalPool(experiment), experiment, range(4), phi)
    monkeypatch.setattr(pools.Board, "make", lambda slots, size: None)
    pool = start(RayPool, experiment, {"workers": 2})
    first, phi = advance(pool, experiment, range(2), phi)
    assert pool._near == [False, False]
    kill_actor(pool._workers[0])
    rest, _ = advance(pool, experiment, range(2, 4), phi)
    np.testing.assert_array_equal(np.stack(first + rest), np.stack(expected))
    pool.stop()


@pytest.mark.parametrize("keep_every", [2, 20])
def test_a_killed_worker_s_slice_is_learned_again(make_experiment, kill_actor, monkeypatch, keep_every):
    monkeypatch.setattr(pools, "KEEP_EVERY", keep_every)
    experiment = experiment_of(make_experiment)
    phi = initial_weights(experiment, SequentialRunner(experiment).distribution)
    alone = LocalPool(experiment)
    expected, _ = advance(alone, experiment, range(5), phi)
    pool = start(RayPool, experiment, {"workers": 2})
    first, phi = advance(pool, experiment, range(3), phi)
    assert pool._near == [True, True]
    kill_actor(pool._workers[1])
    rest, _ = advance(pool, experiment, range(3, 5), phi)
    kill_actor(pool._workers[0])
    states = pool.states()
    assert pool.restarts == 2
    np.testing.assert_array_equal(np.stack(first + rest), np.stack(expected))
    for state, known in zip(states, alone.states(), strict=True):
        np.testing.assert_array_equal(state["square"], known["square"])
    pool.stop()


@pytest.mark.slow
def test_a_worker_killed_before_its_first_task_is_replaced(make_experiment, kill_actor):
    experiment = experiment_of(make_experiment)
    phi = initial_weights(experiment, SequentialRunner(experiment).distribution)
    expected, _ = advance(LocalPool(experiment), experiment, range(1), phi)
    pool = start(RayPool, experiment, {"workers": 2})
    kill_actor(pool._workers[0])
    got, _ = advance(pool, experiment, range(1), phi)
    np.testing.assert_array_equal(got, expected)
    pool.stop()


@pytest.mark.slow
def test_too_many_deaths_stop_the_run(make_experiment, kill_actor):
    experiment = experiment_of(make_experiment)
    pool = start(RayPool, experiment, {"workers": 1, "restart_limit": 0})
    kill_actor(pool._workers[0])
    with pytest.raises(TrainingStopped, match="restart_limit"):
        pool.train(initial_weights(experiment, SequentialRunner(experiment).distribution), 0)
    pool.stop()


def test_a_worker_s_complaint_reaches_the_user(make_experiment):
    experiment = make_experiment("glyphs", preset="reptile-omniglot-5way-1shot", evaluation={"shots": 6})
    with pytest.raises(UserError, match=r"evaluation\.shots"):
        start(RayPool, experiment, {"workers": 1})


@pytest.mark.parametrize("kind", ["reptile", "fomaml", "maml", "gradient-sum"])
@pytest.mark.parametrize("task", ["glyphs", "sine"])
def test_many_at_once_learn_as_one_after_the_other(make_experiment, kind, task):
    optimizer = "sgd" if kind == "maml" or task == "sine" else "adam"
    inner = {"optimizer": optimizer, "learning_rate": 0.01, "steps": 4, "tail_shots": 0 if kind == "reptile" else 1}
    experiment = make_experiment(task, inner=inner, update={"kind": kind, "meta_batch": 3})
    runners = SequentialRunner(experiment), VectorizedRunner(experiment)
    phi = initial_weights(experiment, runners[0].distribution)
    request = trial(experiment, (5,), 6, transductive=True, separate=True)
    for iteration in range(2):
        one, many = (runner.train(phi, iteration, range(3)) for runner in runners)
        np.testing.assert_allclose(many.losses, one.losses, rtol=1e-4)
        scale = np.abs(one.directions).max()
        np.testing.assert_allclose(many.directions, one.directions, atol=2e-3 * scale)
    states = [runner.states(range(3)) for runner in runners]
    tested = [runner.test(phi, state[0], request) for runner, state in zip(runners, states, strict=True)]
    assert tested[0].keys() == tested[1].keys()
    for name in tested[0]:
        np.testing.assert_allclose(tested[1][name], tested[0][name], atol=1e-3 if task == "sine" else 0.34)
