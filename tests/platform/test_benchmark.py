"""Benchmarks: the grid, its trials in and out of Ray, and what their report says."""

from __future__ import annotations

import csv
import io
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadriga.platform import benchmark_picture, benchmark_report, benchmark_trial, training
from quadriga.platform.benchmark import Session, choose_variants, find_benchmark, grid, read_records
from quadriga.platform.benchmark_command import parse_names, parse_seeds
from quadriga.platform.benchmark_trial import Trial, train_or_continue
from quadriga.platform.errors import UserError
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.statistics import bootstrap_interval, mean_interval
from quadriga.platform.suites import at_the_end, last, steps_until
from quadriga.platform.writer_lock import writing

SCRIPT = Path(sys.executable).with_name("quadriga")


def bowl(
    variants: Sequence[str] = (), seeds: Sequence[int] = (0, 1), steps: int = 5000, **overrides: Any
) -> list[Trial]:
    line, benchmark = find_benchmark("bowl")
    suite = benchmark.suites["small"]
    return grid(line, benchmark, choose_variants(line, suite, variants), suite.tasks, seeds, steps, overrides)


def train(trials: Sequence[Trial], folder: Path) -> list[tuple[str, str] | None]:
    """What a Ray task does, here."""
    runs_dir = str(folder / "trials")
    return [train_or_continue(trial.experiment.model_dump(mode="json"), runs_dir, ["quadriga"]) for trial in trials]


def metrics(folder: Path, trial: str) -> list[dict[str, Any]]:
    return RunFolder.open(str(folder / "trials" / trial)).metrics.read().to_pylist()


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


@pytest.mark.usefixtures("walk_line")
def test_a_grid_is_every_variant_on_every_task_with_every_seed() -> None:
    trials = bowl(seeds=[3, 5], learning_rate=0.25)
    assert [trial.name for trial in trials] == [
        "walk-Bowl-v0-seed3", "walk-fast-Bowl-v0-seed3", "walk-Bowl-v0-seed5", "walk-fast-Bowl-v0-seed5",
    ]  # fmt: skip
    assert {(trial.experiment.preset, trial.experiment.steps) for trial in trials} == {
        ("walk", 5000),
        ("walk-fast", 5000),
    }
    assert all(trial.experiment.learning_rate == 0.25 for trial in trials)  # type: ignore[attr-defined]
    assert [trial.experiment.seed for trial in trials] == [3, 3, 5, 5]


@pytest.mark.usefixtures("walk_line")
def test_a_file_is_a_variant_under_its_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: walk\nname: other\nseed: 9\nlearning_rate: 0.125\n")
    (trial,) = bowl([str(file)], seeds=[1])
    assert (trial.name, trial.experiment.seed) == ("mine-Bowl-v0-seed1", 1)
    assert trial.experiment.learning_rate == 0.125  # type: ignore[attr-defined]


@pytest.mark.usefixtures("walk_line")
def test_a_file_is_run_on_the_tasks_of_the_benchmark_and_not_on_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: walk\nenv: {id: Trough-v0, dim: 7}\n")
    line, benchmark = find_benchmark("bowl")
    variants = choose_variants(line, benchmark.suites["small"], ["walk", str(file)])
    trials = grid(line, benchmark, variants, ["Bowl-v0", "Trough-v0"], [0], 5000)
    environments: list[Any] = [trial.experiment.env for trial in trials]  # type: ignore[attr-defined]
    assert (
        [trial.task for trial in trials] == [env.id for env in environments] == [*["Bowl-v0"] * 2, *["Trough-v0"] * 2]
    )
    assert [env.dim for env in environments] == [3, 7, 3, 7]
    file.write_text("preset: walk\nsearch: {}\n")
    with pytest.raises(UserError, match="holds a search"):
        choose_variants(line, benchmark.suites["small"], [str(file)])


def test_a_file_leaves_to_its_task_what_it_does_not_say(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: surprisal\nenv: BankHeistRam-v0\n")
    line, benchmark = find_benchmark("exploration")
    variants = choose_variants(line, benchmark.suites["atari"], ["surprisal", str(file)])
    preset, own = grid(line, benchmark, variants, ["SparseMountainCar-v0"], [0], 5000)
    assert own.experiment.model_dump(exclude={"name"}) == preset.experiment.model_dump(exclude={"name"})


@pytest.mark.usefixtures("walk_line")
def test_what_cannot_be_run_is_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match=r"unknown benchmark 'bowls'; did you mean 'bowl'\?"):
        find_benchmark("bowls")
    with pytest.raises(UserError, match=r"unknown algorithm of the benchmark 'wolk'; did you mean 'walk'\?"):
        bowl(["wolk"])
    with pytest.raises(UserError, match="unknown environment 'Plate-v0'"):
        bowl(env={"id": "Plate-v0"})
    with pytest.raises(UserError, match="unknown key 'learning_rat'"):
        bowl(learning_rat=1)


def test_seeds_and_names_are_read_as_people_write_them() -> None:
    assert parse_seeds("0,1, 2".replace(" ", "")) == [0, 1, 2]
    assert parse_seeds("0-3,10") == [0, 1, 2, 3, 10]
    assert parse_names("ppo, cpo") == ["ppo", "cpo"]
    for text in ("", "a", "3-1", "1,,2", "-1"):
        with pytest.raises(Exception, match="expected seeds such as"):
            parse_seeds(text)
    with pytest.raises(Exception, match="expected names"):
        parse_names("ppo,")


@pytest.mark.usefixtures("walk_line")
def test_a_trial_goes_on_from_its_checkpoint_and_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, cut = (bowl(["walk"], [0], 20_000) for _ in range(2))
    assert train(whole, tmp_path / "whole") == [None]
    interrupted = cut[0].experiment.model_copy(update={"steps": 12_000})
    training.train(interrupted, runs_dir=str(tmp_path / "cut" / "trials"), progress="quiet")
    assert train(cut, tmp_path / "cut") == [None]
    name = cut[0].name
    one, other = ([{**row, "wall_time_s": 0} for row in metrics(tmp_path / each, name)] for each in ("whole", "cut"))
    assert one == other


@pytest.mark.usefixtures("walk_line")
def test_a_trial_that_ended_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    (trial,) = bowl(["walk"], [0])
    run = RunFolder.create(str(tmp_path / "trials"), trial.name)
    run.write_text("experiment.yaml", trial.experiment.to_yaml())
    run.metrics.append({"env_steps": 1000})
    assert train([trial], tmp_path) == [None]
    assert [path.name for path in (tmp_path / "trials").iterdir()] == [trial.name]
    assert [row["env_steps"] for row in metrics(tmp_path, trial.name)] == [1000, 2000, 3000, 4000, 5000]


@pytest.mark.usefixtures("walk_line")
@pytest.mark.parametrize("left", ["nothing", "half"])
def test_a_half_made_folder_becomes_the_trial_s(tmp_path: Path, left: str) -> None:
    (trial,) = bowl(["walk"], [0])
    run = RunFolder.claim(str(tmp_path / "trials"), trial.name)
    if left == "half":
        run.write_text("provenance.json", "{}")
    assert train([trial], tmp_path) == [None]
    assert [path.name for path in (tmp_path / "trials").iterdir()] == [trial.name]


@pytest.mark.usefixtures("walk_line")
def test_a_trial_that_is_under_way_is_not_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_trial, "ENDING_S", 0.5)
    (trial,) = bowl(["walk"], [0])
    run = RunFolder.create(str(tmp_path / "trials"), trial.name)
    run.write_text("experiment.yaml", trial.experiment.to_yaml())
    run.metrics.append({"env_steps": 1000})
    with run.writing():
        ((said, _),) = train([trial], tmp_path)  # type: ignore[misc]
    assert "is being trained by process" in said
    assert [row["env_steps"] for row in metrics(tmp_path, trial.name)] == [1000]
    assert train([trial], tmp_path) == [None]


@pytest.mark.usefixtures("walk_line")
def test_a_benchmark_that_is_being_run_is_not_run_by_another_process(tmp_path: Path) -> None:
    with writing(tmp_path, "it is run"), pytest.raises(UserError, match=r"benchmark .* is being run by process"):
        Session(str(tmp_path), bowl()).run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("walk_line")
def test_a_finished_trial_is_left_alone_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    assert train(bowl(), tmp_path) == [None] * 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").rglob("*") if path.is_file()}
    assert Session(str(tmp_path), bowl()).open == []
    assert train(bowl(), tmp_path) == [None] * 4
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").rglob("*") if path.is_file()}
    assert [trial.name for trial in Session(str(tmp_path), bowl(seeds=[0, 1, 2])).open] == [
        "walk-Bowl-v0-seed2", "walk-fast-Bowl-v0-seed2",
    ]  # fmt: skip
    assert len(Session(str(tmp_path), bowl(steps=6000)).open) == 4


@pytest.mark.usefixtures("walk_line")
def test_a_folder_takes_no_trial_of_other_settings_under_the_same_name(tmp_path: Path) -> None:
    train(bowl(["walk"], [0]), tmp_path)
    with pytest.raises(UserError, match=r"other settings \(learning_rate: 0.05 there, 0.25 now\); give another --name"):
        Session(str(tmp_path), bowl(["walk"], [0], learning_rate=0.25))
    with pytest.raises(UserError, match="begun with 5,000 steps, more than 4,000"):
        Session(str(tmp_path), bowl(["walk"], [0], 4000))
    Session(str(tmp_path), bowl(["walk"], [0], checkpoint={"keep": 1}))


@pytest.mark.usefixtures("walk_line")
def test_a_trial_that_fails_says_why(tmp_path: Path) -> None:
    trials = bowl(["walk"], [0], faults={"nan_at": 2}) + bowl(["walk"], [1], faults={"defect_at": 2})
    (said, no_trace), (defect, trace) = (problem or ("", "") for problem in train(trials, tmp_path))
    assert said.startswith("training stopped after 1,000 env steps: the loss is NaN")
    assert no_trace == ""
    assert defect == "ZeroDivisionError: a defect"
    assert 'raise ZeroDivisionError("a defect")' in trace


@pytest.mark.usefixtures("walk_line")
def test_the_tables_hold_the_numbers_of_the_run_folders(tmp_path: Path) -> None:
    trials = bowl(seeds=[0, 1, 2])
    train(trials, tmp_path)
    assert Session(str(tmp_path), trials).run() == []  # nothing to do: without Ray
    line, benchmark = find_benchmark("bowl")
    text = benchmark_report.write(line, benchmark, "bowl", str(tmp_path), "learning_rate")
    rows = {(row["variant"], int(row["seed"])): row for row in table(tmp_path / "trials.csv")}
    returns: dict[str, list[float]] = {"walk": [], "walk-fast": []}
    for variant, seed in rows:
        found = metrics(tmp_path, f"{variant}-Bowl-v0-seed{seed}")
        returns[variant].append(np.mean([row["episode_return_mean"] for row in found[-2:]]))  # the last 40% of 5
        assert float(rows[variant, seed]["return"]) == pytest.approx(returns[variant][-1], rel=1e-12)
        assert float(rows[variant, seed]["cost"]) == found[-1]["episode_cost_mean"]
        assert float(rows[variant, seed]["normalised_return"]) == pytest.approx(2 * returns[variant][-1], rel=1e-12)
        assert int(rows[variant, seed]["steps"]) == 5000
    by = {(row["task"], row["variant"], row["measure"]): row for row in table(tmp_path / "results.csv")}
    for variant, samples in returns.items():
        row, mean, middle = by["Bowl-v0", variant, "return"], mean_interval(samples), bootstrap_interval([samples])
        assert [float(row[key]) for key in ("mean", "mean_low", "mean_high")] == pytest.approx(mean[:3])
        assert [float(row[key]) for key in ("iqm", "iqm_low", "iqm_high")] == pytest.approx(middle[:3])
        doubled = bootstrap_interval([[2 * sample for sample in samples]])
        assert float(by["all", variant, "normalised_return"]["iqm_high"]) == pytest.approx(doubled.high)
        low = f"{mean.mean:.3g} [{mean.low:.3g}, {mean.high:.3g}]"
        assert f"| {variant} | 5,000 | 3 | {low} |" in text
    assert by["Bowl-v0", "walk", "return"]["Robbins_mean"] == "-0.1"
    assert "| -0.1 ± 0.01 |" in text
    assert by["Bowl-v0", "walk-fast", "return"]["Robbins_mean"] == ""
    for picture in ("curves-Bowl-v0.png", "response-Bowl-v0.png"):
        assert f"]({picture})" in text
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "results.md").read_text() == text


@pytest.mark.usefixtures("walk_line")
@pytest.mark.parametrize("seeds", [2, 3])
def test_a_response_has_bars_from_three_seeds_on_and_the_values_of_two(tmp_path: Path, seeds: int) -> None:
    trials = bowl(["walk", "walk-fast"], range(seeds))
    train(trials, tmp_path)
    Session(str(tmp_path), trials)._write_records()
    line, benchmark = find_benchmark("bowl")
    results, _ = benchmark_report.collect(line, benchmark, str(tmp_path))
    panel = benchmark_picture.responses(benchmark, results, "learning_rate").axes[0]
    dots = [line.get_ydata() for line in panel.lines if line.get_gid() == "runs"]
    bars = [bar for container in panel.containers for bar in container.lines[2][0].get_segments()]
    heights = [high - low for (_, low), (_, high) in bars]
    if seeds == 2:
        of_each = [
            [each.measures["return"] for each in results if each.variant == name] for name in ("walk", "walk-fast")
        ]
        np.testing.assert_allclose(sorted(map(sorted, dots)), sorted(map(sorted, of_each)))
        assert heights == [0, 0]
    else:
        assert dots == []
        assert len(heights) == 2 and min(heights) > 0


@pytest.mark.usefixtures("walk_line")
def test_what_is_not_finished_is_named(tmp_path: Path) -> None:
    trials = bowl()
    train(trials[:2], tmp_path)
    Session(str(tmp_path), trials)._write_records()
    line, benchmark = find_benchmark("bowl")
    text = benchmark_report.write(line, benchmark, "bowl", str(tmp_path))
    assert "2 of 4 trials finished" in text
    assert "| walk-fast-Bowl-v0-seed1 | 0 | not run to its end yet |" in text
    with pytest.raises(UserError, match="holds no trials"):
        benchmark_report.collect(line, benchmark, str(tmp_path / "elsewhere"))


@pytest.mark.usefixtures("walk_line")
def test_of_what_some_trials_never_came_to_the_table_says_how_many_did(tmp_path: Path) -> None:
    trials = bowl(["walk"], [0, 1, 2])
    train(trials, tmp_path)
    assert Session(str(tmp_path), trials).run() == []  # nothing to do: without Ray
    line, benchmark = find_benchmark("bowl")
    results, _ = benchmark_report.collect(line, benchmark, str(tmp_path))
    for values, said in (((10.0, 30.0, math.inf), "20 in 2 of 3"), ((math.inf,) * 3, "never")):
        changed = [
            replace(result, measures={**result.measures, "cost": value})
            for result, value in zip(results, values, strict=True)
        ]
        assert f"| {said} |" in benchmark_report.markdown(benchmark, "bowl", changed, [], [])


def test_measures_at_the_end_are_means_over_the_last_steps() -> None:
    columns = {"env_steps": np.arange(1.0, 21.0), "x": np.arange(20.0), "rate": np.array([1.0] * 19 + [math.nan])}
    assert at_the_end("x", 0.1)(columns, "env_steps") == 18.5
    assert at_the_end("x", 0.01)(columns, "env_steps") == 19
    assert math.isnan(at_the_end("y")(columns, "env_steps"))
    assert last("rate")(columns, "env_steps") == 1
    assert math.isnan(last("y")(columns, "env_steps"))
    assert steps_until("x", 5)(columns, "env_steps") == 6
    assert steps_until("x", 50)(columns, "env_steps") == math.inf


def start(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(SCRIPT), "benchmark", "bowl", "--concurrent", "2", *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_on_ray_a_failing_trial_is_tried_again_and_reported_and_the_others_finish(
    walk_package: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "broken.yaml").write_text("preset: walk\nfaults: {raise_at: 3}\n")
    with start(walk_package, tmp_path, "--presets", "walk,broken.yaml", "--seeds", "0") as first:
        out, err = first.communicate()
    assert first.returncode == 2, err
    assert "1 of the trials failed: broken-Bowl-v0-seed0; the report says why" in err
    folder = tmp_path / "runs" / "bowl-small"
    records = read_records(str(folder))
    assert {name: record.attempts for name, record in records.items()} == {
        "walk-Bowl-v0-seed0": 1, "broken-Bowl-v0-seed0": 2,
    }  # fmt: skip
    report = (folder / "results.md").read_text()
    assert report in out
    assert "| broken-Bowl-v0-seed0 | 2 | training stopped after 2,000 env steps:" in report
    assert "OSError: no bowl" in report
    assert [row["variant"] for row in table(folder / "trials.csv")] == ["walk"]
    provenance = json.loads((folder / "trials" / "walk-Bowl-v0-seed0" / "provenance.json").read_text())
    assert provenance["argv"][1:3] == ["benchmark", "bowl"]


def wait_for_checkpoints(folder: Path, process: subprocess.Popen[str]) -> None:
    while not all(any((folder / f"walk-Bowl-v0-seed{n}" / "checkpoints").glob("*/MANIFEST.json")) for n in (0, 1)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("walk_line")
def test_a_benchmark_that_was_stopped_goes_on_and_equals_an_uninterrupted_one(
    walk_package: dict[str, str], tmp_path: Path, how: signal.Signals
) -> None:
    steps, pause = 200_000, 0.03  # six seconds: what a killed benchmark leaves behind ends sooner than its trials
    arguments = ("--presets", "walk", "--seeds", "0-1", "--steps", str(steps), "--set", f"pause={pause}")
    folder = tmp_path / "runs" / "bowl-small"
    with start(walk_package, tmp_path, *arguments) as first:
        wait_for_checkpoints(folder / "trials", first)
        first.send_signal(how)
        _, said = first.communicate()
    assert how is signal.SIGKILL or "trials are left: the same command goes on with them" in said
    assert first.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how], said
    done = [metrics(folder, f"walk-Bowl-v0-seed{seed}")[-1]["env_steps"] for seed in (0, 1)]
    assert min(done) < steps
    with start(walk_package, tmp_path, *arguments) as second:
        out, err = second.communicate()
    assert second.returncode == 0, err
    assert "of 2 trials to run, up to 2 at once" in out
    whole = bowl(["walk"], [0, 1], steps, pause=pause)
    train(whole, tmp_path / "whole")
    for trial in whole:
        one, other = (
            [{**row, "wall_time_s": 0} for row in metrics(each, trial.name)] for each in (folder, tmp_path / "whole")
        )
        assert one == other
