"""Searches on a real cluster, with a line of work that trains in milliseconds: results, resumption, populations."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from quadriga.clusters import local
from quadriga.clusters.local import LocalCluster, Shape

pytestmark = pytest.mark.slow

SEARCH = """\
preset: walk
steps: 10_000
checkpoint: {every_iterations: 2}
search:
  parameters: {learning_rate: {grid: [0.000001, 0.001, 0.05, 0.1]}}
  objective: {maximize: episode_return_mean, average: 1}
"""
DRAWS = """\
preset: walk
steps: 20_000
checkpoint: {every_iterations: 2}
search:
  parameters:
    learning_rate: {loguniform: [0.000001, 0.1]}
    seed: {choice: [0, 1]}
    env.dim: {randint: [2, 4], when: {seed: 1}}
  trials: 12
  objective: {maximize: episode_return_mean, average: 1}
"""
# Trials that rest are under way together: of those that have not begun nobody takes anything over.
POPULATION = """\
preset: walk
steps: 40_000
pause: 0.3
search:
  parameters: {learning_rate: {loguniform: [0.00001, 0.1]}}
  trials: 4
  objective: {maximize: episode_return_mean, average: 1}
  scheduler: {kind: pbt, every: 4000, resample: 0.0}
"""


@pytest.fixture(scope="module")
def walkers(state_folder: Path, site: Path) -> Iterator[LocalCluster]:
    """A cluster that knows the line of work."""
    yield local.up(
        "walkers",
        Shape(workers=0, head_cpus=4),
        port=0,
        dashboard_port=0,
        extra_environment={"PYTHONPATH": str(site)},
    )
    local.down("walkers")


def command(site: Path, folder: Path, cluster: LocalCluster, *arguments: str) -> tuple[Sequence[str], dict[str, Any]]:
    words = [sys.executable, "-m", "quadriga.platform.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(site), "RAY_ADDRESS": cluster.address}
    return words, {"cwd": folder, "env": environment, "text": True}


def tune(site: Path, folder: Path, cluster: LocalCluster, *arguments: str) -> str:
    words, options = command(site, folder, cluster, "tune", *arguments)
    done = subprocess.run(words, **options, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def results(search: Path) -> dict[float, dict[str, Any]]:
    return {each["point"]["learning_rate"]: each for each in json.loads((search / "trials.json").read_text())}


def values(run: Path) -> dict[str, list[Any]]:
    columns = pq.read_table(run / "metrics.parquet").to_pydict()
    return {name: column for name, column in columns.items() if name != "wall_time_s"}


def test_a_search_finds_the_best_and_its_trials_are_the_runs_that_training_would_make(
    site: Path, walkers: LocalCluster, tmp_path: Path
) -> None:
    (tmp_path / "search.yaml").write_text(SEARCH)
    said = tune(site, tmp_path, walkers, "search.yaml", "--name", "s")
    search = tmp_path / "runs" / "s"
    found = results(search)
    assert len(found) == 4
    assert all(each["step"] == 10_000 and each["error"] is None for each in found.values())
    ranked = sorted(found, key=lambda rate: found[rate]["objective"])
    best = yaml.safe_load((search / "best.yaml").read_text())
    assert best["learning_rate"] == ranked[-1] and ranked[0] == 1e-6
    assert found[ranked[-1]]["episode_return_mean"] > found[ranked[0]]["episode_return_mean"]
    assert "quadriga train runs/s/best.yaml" in said
    assert (search / "search.png").read_bytes().startswith(b"\x89PNG")
    words, options = command(site, tmp_path, walkers, "train", str(search / "best.yaml"), "--name", "alone", "--quiet")
    subprocess.run(words, **options, check=True)
    trial = search / "trials" / found[ranked[-1]]["trial"]
    assert values(trial) == values(tmp_path / "runs" / "alone")


WAYS = {
    "asha": "  scheduler: {kind: asha, grace: 4000}\n",
    "hyperband": "  scheduler: {kind: hyperband, grace: 4000}\n",
    "median": "  scheduler: {kind: median, grace: 4000}\n",
    "bohb": "  searcher: bohb\n  scheduler: {kind: hyperband, grace: 4000}\n",
    "optuna": "  searcher: optuna\n",
    "optuna with asha": "  searcher: optuna\n  scheduler: {kind: asha, grace: 4000}\n",
}


@pytest.mark.parametrize("way", WAYS)
def test_schedulers_end_trials_early_and_the_best_of_those_that_went_all_the_way_is_found(
    site: Path, walkers: LocalCluster, tmp_path: Path, way: str
) -> None:
    conditional = way != "bohb"
    if not conditional:
        pytest.importorskip("hpbandster", reason="bohb needs the package hpbandster")
    text = DRAWS if conditional else DRAWS.replace(", when: {seed: 1}", "")
    (tmp_path / "search.yaml").write_text(text + WAYS[way])
    said = tune(site, tmp_path, walkers, "search.yaml", "--name", "s")
    found = json.loads((tmp_path / "runs" / "s" / "trials.json").read_text())
    assert len(found) == 12 and all(each["ended"] and each["error"] is None for each in found)
    for each in found:
        assert ("env.dim" in each["point"]) == (not conditional or each["point"]["seed"] == 1)
    last = [each for each in found if each["step"] == 20_000]
    early = [each for each in found if each["step"] < 20_000]
    assert last and bool(early) == (way != "optuna")
    best = max(last, key=lambda each: each["objective"])
    assert f"next:\n  quadriga train runs/s/best.yaml\n  quadriga plot runs/s/trials/{best['trial']}\n" in said


@pytest.mark.parametrize("way", ["one at a time", "hyperband", "optuna"])
def test_a_search_that_was_killed_goes_on_and_loses_no_finished_trial(
    site: Path, walkers: LocalCluster, tmp_path: Path, way: str
) -> None:
    ways = WAYS | {"one at a time": "  concurrency: 1\n"}
    text = SEARCH if way == "one at a time" else DRAWS.replace("trials: 12", "trials: 8")
    steps = 400_000 if way == "one at a time" else 40_000
    total = 4 if way == "one at a time" else 8
    text = re.sub(r"steps: \w+", f"steps: {steps}", text, count=1) + ways[way]
    (tmp_path / "search.yaml").write_text(text)
    runs = f"local://{tmp_path}/storage"  # an fsspec filesystem, as remote storage is
    words, options = command(
        site, tmp_path, walkers, "tune", "search.yaml", "--name", "s", "--runs-dir", runs, "--json"
    )
    driver = subprocess.Popen(words, **options, stdout=subprocess.PIPE)
    finished: set[str] = set()
    assert driver.stdout is not None
    for line in driver.stdout:
        row = json.loads(line)
        finished |= {row["trial"]} if row["state"] == "done" else set()
        if len(finished) == 2:
            break
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    trials = tmp_path / "storage" / "s" / "trials"
    before = {name: (trials / name / "metrics.parquet").read_bytes() for name in finished}
    tune(site, tmp_path, walkers, "--resume", "s", "--runs-dir", runs)
    found = {each["trial"]: each for each in json.loads((tmp_path / "storage" / "s" / "trials.json").read_text())}
    assert len(found) == total and all(each["ended"] for each in found.values())
    assert finished <= set(found)
    for name, content in before.items():
        assert (trials / name / "metrics.parquet").read_bytes() == content, name
    for name, each in found.items():
        assert values(trials / name)["env_steps"] == list(range(1000, each["step"] + 1000, 1000))
        assert each["step"] == steps or way == "hyperband"
    assert any(each["step"] == steps for each in found.values())


def test_a_population_changes_values_and_keeps_the_weights_it_takes_over(
    site: Path, walkers: LocalCluster, tmp_path: Path
) -> None:
    (tmp_path / "search.yaml").write_text(POPULATION)
    tune(site, tmp_path, walkers, "search.yaml", "--name", "p")
    search = tmp_path / "runs" / "p"
    from quadriga.platform import search as searches

    _, settings = searches.load(str(tmp_path / "search.yaml"))
    begun = {point["learning_rate"] for point in searches.points(settings)}
    found = json.loads((search / "trials.json").read_text())
    ended = {each["point"]["learning_rate"] for each in found}
    assert ended - begun, "no trial has a changed value"
    assert all(1e-5 <= rate <= 0.1 for rate in ended)
    changed = [each for each in found if each["point"]["learning_rate"] not in begun]
    best = max(each["episode_return_mean"] for each in found)
    for each in changed:
        run = search / "trials" / each["trial"]
        assert yaml.safe_load((run / "experiment.yaml").read_text())["learning_rate"] == each["point"]["learning_rate"]
        assert values(run)["env_steps"][-1] == 40_000
    # A trial of the lowest rate alone would still be where it began.
    start = values(search / "trials" / found[0]["trial"])["episode_return_mean"][0]
    assert all(each["episode_return_mean"] > (start + best) / 2 for each in changed)
