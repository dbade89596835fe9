"""Evaluation of a trained run."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quadriga.platform import evaluation, training
from quadriga.platform.errors import TrainingStopped, UserError
from quadriga.platform.evaluation import EVALUATIONS, evaluate, evaluations
from quadriga.platform.experiment import build
from quadriga.platform.lines import EvaluationRequest
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.statistics import mean_interval

pytestmark = pytest.mark.usefixtures("walk_line")


def trained(folder: Path, **fields: Any) -> RunFolder:
    experiment = build({"preset": "walk", "steps": 20_000, "checkpoint": {"every_iterations": 1}, **fields})
    return training.train(experiment, runs_dir=str(folder), progress="quiet")


def test_intervals_are_those_of_the_samples(tmp_path: Path) -> None:
    result = evaluate(trained(tmp_path), EvaluationRequest(episodes=12))
    assert [len(values) for values in result.samples.values()] == [12, 12, 12]
    assert result.intervals == {name: mean_interval(values) for name, values in result.samples.items()}
    low, mean, high = (getattr(result.intervals["return"], part) for part in ("low", "mean", "high"))
    assert low < mean < high


def test_latest_is_where_training_stands_and_best_has_the_highest_score(tmp_path: Path) -> None:
    run = trained(tmp_path, learning_rate=0.5)
    returns = run.metrics.read().column("episode_return_mean").to_pylist()
    best_step = 1000 * (returns.index(max(returns)) + 1)
    assert best_step != 20_000
    assert evaluate(run, EvaluationRequest()).step == 20_000
    assert evaluate(run, EvaluationRequest(), checkpoint="best").step == best_step


def test_same_seed_gives_the_same_episodes_and_another_seed_others(tmp_path: Path) -> None:
    run = trained(tmp_path)
    first, again, other = (evaluate(run, EvaluationRequest(seed=seed)).samples for seed in (4, 4, 5))
    assert first == again != other


def test_results_are_kept_in_the_run_folder_oldest_first(tmp_path: Path) -> None:
    run = trained(tmp_path)
    results = [evaluate(run, EvaluationRequest(episodes=episodes)) for episodes in (3, 4)]
    kept = json.loads((tmp_path / run.name / EVALUATIONS).read_text())
    assert kept == [result.as_json() for result in results] == evaluations(run)
    assert [entry["episodes"] for entry in kept] == [3, 4]
    assert kept[0]["return"]["mean"] == results[0].intervals["return"].mean
    assert (kept[0]["checkpoint"], kept[0]["step"], kept[0]["level"]) == ("latest", 20_000, 0.95)


def test_results_of_evaluations_at_once_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path)
    begun = threading.Barrier(4)
    known = evaluation.evaluations

    def slow(run: RunFolder) -> list[dict[str, Any]]:
        found = known(run)
        time.sleep(0.05)  # whoever else reads meanwhile does not see what this one is about to add
        return found

    def one(seed: int) -> None:
        begun.wait()
        evaluate(run, EvaluationRequest(episodes=2, seed=seed))

    monkeypatch.setattr(evaluation, "evaluations", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(4)))
    assert sorted(entry["seed"] for entry in known(run)) == [0, 1, 2, 3]
    assert sorted(path.name for path in (tmp_path / run.name).glob(".*")) == []


def test_a_film_is_found_again_from_anywhere_and_known_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = trained(tmp_path)
    evaluate(run, EvaluationRequest(video=Path("film.gif")))
    (kept,) = evaluations(run)
    assert kept["video"] == str(tmp_path / "film.gif")
    assert kept["video_sha256"] == hashlib.sha256((tmp_path / "film.gif").read_bytes()).hexdigest()


def test_one_episode_has_a_mean_and_no_interval(tmp_path: Path) -> None:
    result = evaluate(trained(tmp_path), EvaluationRequest(episodes=1)).as_json()
    assert result["return"]["mean"] is not None
    assert (result["return"]["low"], result["return"]["high"]) == (None, None)


def test_checkpoint_is_left_as_it_was(tmp_path: Path) -> None:
    run = trained(tmp_path)
    evaluate(run, EvaluationRequest())
    after = run.checkpoints.latest(verify=True)
    assert after is not None
    assert after.step == 20_000


def test_run_without_a_checkpoint_cannot_be_evaluated(tmp_path: Path) -> None:
    experiment = build({"preset": "walk", "name": "run", "faults": {"nan_at": 3}})
    with pytest.raises(TrainingStopped):
        training.train(experiment, runs_dir=str(tmp_path), progress="quiet")
    for checkpoint in ("latest", "best"):
        with pytest.raises(UserError, match="no whole checkpoint"):
            evaluate(RunFolder.open("run", str(tmp_path)), EvaluationRequest(), checkpoint=checkpoint)


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    run = trained(tmp_path)
    with pytest.raises(UserError, match="episodes: expected at least 1, got 0"):
        evaluate(run, EvaluationRequest(episodes=0))
    with pytest.raises(UserError, match="checkpoint: expected latest or best, got 'first'"):
        evaluate(run, EvaluationRequest(), checkpoint="first")


@pytest.mark.parametrize("text", ["[{", '{"a": 1}'])
def test_damaged_file_of_earlier_results_is_not_overwritten(tmp_path: Path, text: str) -> None:
    run = trained(tmp_path)
    run.write_text(EVALUATIONS, text)
    film = tmp_path / "film.gif"
    with pytest.raises(UserError, match="is damaged"):
        evaluate(run, EvaluationRequest(video=film))
    assert run.read_text(EVALUATIONS) == text
    assert not film.exists()  # nothing was played
