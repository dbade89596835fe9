"""Whole runs through the shared driver: learning, resuming, stopping, evaluating, drawing."""

import json

import numpy as np
import pytest

from quadriga.metalearn.trainer import CHECKPOINT, MetaTrainer, initial_weights
from quadriga.platform import experiment as experiments
from quadriga.platform import training
from quadriga.platform.cli import run
from quadriga.platform.errors import TrainingStopped, UserError
from quadriga.platform.evaluation import evaluate
from quadriga.platform.lines import EvaluationRequest
from quadriga.platform.run_folder import RunFolder


def arrays(folder):
    with folder.checkpoints.latest().local() as path, np.load(path / CHECKPOINT) as kept:
        return {name: np.array(kept[name]) for name in kept}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def train(experiment, folder, name, **fields):
    experiment = experiment.model_copy(update={"name": name, **fields})
    return training.train(experiment, runs_dir=str(folder), progress="quiet")


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("sine", {}),
        ("sine", {"inner": {"optimizer": "adam", "learning_rate": 1e-3}, "update": {"meta_batch": 3}}),
        ("sine", {"inner": {"tail_shots": 5}, "update": {"kind": "maml", "meta_batch": 2}}),
        ("glyphs", {"inner": {"optimizer": "adam"}, "update": {"kind": "fomaml", "optimizer": "adam"}}),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(make_experiment, tmp_path, task, fields):
    experiment = make_experiment(task, checkpoint={"every_iterations": 1, "keep": 9}, **fields)
    whole = train(experiment, tmp_path, "whole")
    cut = train(experiment, tmp_path, "cut")
    latest = cut.checkpoints.latest()
    assert latest is not None and latest.step == 6
    (tmp_path / "cut" / "checkpoints" / "000000000006").rename(tmp_path / "elsewhere")
    resumed = training.resume("cut", runs_dir=str(tmp_path), progress="quiet")
    assert_same(arrays(resumed), arrays(whole))
    for metric in ("inner_loss", "direction_norm", "tasks"):
        assert resumed.metrics.read().column(metric) == whole.metrics.read().column(metric)


def test_a_run_on_workers_equals_one_in_the_driver(make_experiment, tmp_path, ray_session):
    fields = {"inner": {"optimizer": "adam", "learning_rate": 1e-3}, "update": {"meta_batch": 3}}
    alone = train(make_experiment("glyphs", **fields), tmp_path, "alone")
    shared = train(make_experiment("glyphs", compute={"workers": 2}, **fields), tmp_path, "shared")
    assert_same(arrays(shared), arrays(alone))
    assert shared.metrics.read().column("query_accuracy") == alone.metrics.read().column("query_accuracy")


@pytest.mark.slow
def test_a_resumed_run_on_workers_equals_an_uninterrupted_one(make_experiment, tmp_path, ray_session):
    inner = {"optimizer": "adam", "learning_rate": 1e-3}
    experiment = make_experiment(
        "glyphs", inner=inner, update={"meta_batch": 3}, compute={"workers": 2},
        checkpoint={"every_iterations": 1, "keep": 9},
    )  # fmt: skip
    whole = train(experiment, tmp_path, "whole")
    train(experiment, tmp_path, "cut")
    (tmp_path / "cut" / "checkpoints" / "000000000006").rename(tmp_path / "elsewhere")
    assert_same(arrays(training.resume("cut", runs_dir=str(tmp_path), progress="quiet")), arrays(whole))


def test_a_diverging_run_stops_and_keeps_its_last_good_checkpoint(make_experiment, tmp_path):
    experiment = make_experiment(
        inner={"learning_rate": 1e3}, update={"meta_batch": 1, "step_size": 1.0}, report_every=1, steps=50,
        checkpoint={"every_iterations": 1}, evaluation={"tasks": 0},
    )  # fmt: skip
    with np.errstate(all="ignore"), pytest.raises(TrainingStopped, match=r"meta-iteration.*last good|no checkpoint"):
        train(experiment, tmp_path, "wild")


def test_good_weights_survive_a_divergence(make_experiment, tmp_path):
    experiment = make_experiment(checkpoint={"every_iterations": 1})
    good = arrays(train(experiment, tmp_path, "run"))
    path = tmp_path / "run" / "experiment.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.02", "learning_rate: 1.0e+30"))
    with np.errstate(all="ignore"), pytest.raises(TrainingStopped, match="last good checkpoint is that of step 6"):
        training.resume("run", steps=12, runs_dir=str(tmp_path), progress="quiet")
    assert_same(arrays(RunFolder.open("run", str(tmp_path))), good)


def test_bad_data_leave_no_run_behind(tmp_path):
    task = {"data_root": str(tmp_path / "nothing")}
    experiment = experiments.build({"preset": "reptile-omniglot-5way-1shot", "task": task})
    with pytest.raises(UserError, match="no Omniglot in"):
        training.train(experiment, runs_dir=str(tmp_path / "runs"), progress="quiet")
    assert not (tmp_path / "runs").exists()


def test_glyphs_are_told_apart_after_meta_training(make_experiment):
    experiment = make_experiment(
        "glyphs", "reptile-omniglot-5way-1shot", steps=100, report_every=100,
        inner={"steps": 5, "learning_rate": 3e-3}, evaluation={"tasks": 60, "steps": 5},
    )  # fmt: skip
    untrained = MetaTrainer(experiment)
    untrained.done = experiment.steps
    before = untrained._test()["query_accuracy"]
    after = MetaTrainer(experiment).train_iteration()["query_accuracy"]
    assert after > before + 0.15


def test_evaluation_reports_both_ways_of_batching(make_experiment, tmp_path):
    folder = train(make_experiment("glyphs", "reptile-omniglot-5way-1shot"), tmp_path, "run")
    both = evaluate(folder, EvaluationRequest(12))
    assert set(both.intervals) == {"accuracy", "accuracy_transductive"}
    for wanted, name in ((True, "accuracy_transductive"), (False, "accuracy")):
        one = evaluate(folder, EvaluationRequest(12, options={"transductive": wanted}))
        assert one.samples == {name: both.samples[name]}


@pytest.mark.slow
def test_evaluation_on_workers_equals_that_in_the_driver(make_experiment, tmp_path, ray_session):
    folder = train(make_experiment("glyphs", "reptile-omniglot-5way-1shot"), tmp_path, "run")
    alone, shared = (evaluate(folder, EvaluationRequest(7, options={"workers": n})) for n in (0, 3))
    assert alone.samples == shared.samples


def test_the_command_line_trains_evaluates_and_draws(tmp_path, capsys):
    runs = str(tmp_path)
    settings = ["--set", "report_every=20", "--set", "evaluation.tasks=2"]
    assert run(["meta", "train", "sine", "--steps", "40", "--name", "waves", "--runs-dir", runs, *settings]) == 0
    capsys.readouterr()
    assert run(["meta", "evaluate", "waves", "--tasks", "5", "--runs-dir", runs, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["samples"]["loss"]) == 5 and result["loss"]["low"] <= result["loss"]["mean"]
    assert run(["meta", "plot", "waves", "--runs-dir", runs]) == 0
    assert run(["meta", "plot", "waves", "--curves", "--runs-dir", runs]) == 0
    assert (tmp_path / "waves" / "waves.png").stat().st_size > 10_000
    assert (tmp_path / "waves" / "plot.png").stat().st_size > 10_000
    assert run(["meta", "train", "--resume", "waves", "--steps", "60", "--runs-dir", runs, "-q"]) == 0
    assert RunFolder.open("waves", runs).checkpoints.latest().step == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["meta", "train"], "what is to be trained?"),
        (["meta", "train", "sine", "--set", "inner.shots=51"], "a sine task has 50 points"),
        (["meta", "train", "sine", "--set", "update.kind=reptil"], "did you mean 'reptile'"),
        (["meta", "train", "sine", "--set", "update.kind=maml", "--set", "inner.optimizer=adam"], "got 'adam'"),
        (["meta", "train", "--resume", "x", "--seed", "1"], "takes only --steps"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_weights_by_name_are_the_checkpoint_s(make_experiment, tmp_path):
    folder = train(make_experiment(), tmp_path, "run")
    with folder.checkpoints.latest().local() as path, np.load(path / "weights.npz") as named:
        flat = np.concatenate([named[name].ravel() for name in named])
        np.testing.assert_array_equal(flat, arrays(folder)["phi"])


def test_the_seed_decides_the_initial_weights(make_experiment):
    experiment = make_experiment()
    distribution = MetaTrainer(experiment)._distribution
    first = initial_weights(experiment, distribution)
    np.testing.assert_array_equal(first, initial_weights(experiment, distribution))
    other = experiment.model_copy(update={"seed": 1})
    assert not np.array_equal(first, initial_weights(other, distribution))


@pytest.mark.slow
def test_a_meta_trained_network_learns_waves_fifteen_times_better():
    experiment = experiments.build({"preset": "sine", "report_every": 30_000, "evaluation": {"tasks": 500}})
    untrained, trained = MetaTrainer(experiment), MetaTrainer(experiment)
    untrained.done = experiment.steps
    before = untrained._test()["query_loss"]
    after = trained.train_iteration()["query_loss"]
    assert trained.done == 30_000
    assert after < before / 15
