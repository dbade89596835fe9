"""Run folders: made, found, written and read, on a local disk and in remote storage."""

from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quadriga.platform import storage
from quadriga.platform.errors import UserError
from quadriga.platform.experiment import load
from quadriga.platform.lines import Line
from quadriga.platform.run_folder import EXPERIMENT, RunFolder, list_runs


@pytest.fixture(params=["local", "file-uri", "memory"])
def runs_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A local folder, the same as a URI, and remote storage."""
    return {
        "local": str(tmp_path / "runs"),
        "file-uri": (tmp_path / "runs").as_uri(),
        "memory": f"memory://{uuid.uuid4().hex}/runs",
    }[request.param]


def make_run(runs_dir: str, name: str) -> RunFolder:
    run = RunFolder.create(runs_dir, name)
    run.write_text(EXPERIMENT, "preset: toy\n")
    return run


def test_a_new_run_is_found_by_name_and_by_path(runs_dir: str) -> None:
    run = make_run(runs_dir, "first")
    assert run.name == "first"
    assert run.path == f"{runs_dir}/first"
    for found in (RunFolder.open("first", runs_dir), RunFolder.open(run.path), RunFolder.open(run.path + "/")):
        assert found.name == "first"
        assert found.read_text(EXPERIMENT) == "preset: toy\n"


def test_a_taken_name_gets_the_next_number(runs_dir: str) -> None:
    assert [make_run(runs_dir, "run").name for _ in range(3)] == ["run", "run-2", "run-3"]


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: RunFolder.create(str(tmp_path), "same"), range(16)))
    assert len({run.path for run in runs}) == 16


def test_text_is_written_and_overwritten(runs_dir: str) -> None:
    run = RunFolder.create(runs_dir, "run")
    run.write_text("notes/a.txt", "one")
    run.write_text("notes/a.txt", "zwölf")
    assert run.read_text("notes/a.txt") == "zwölf"
    assert run.exists("notes/a.txt") and not run.exists("notes/b.txt")


def test_reading_what_is_not_there_names_it(runs_dir: str) -> None:
    run = RunFolder.create(runs_dir, "run")
    with pytest.raises(UserError, match=r"run '.*run' holds no provenance\.json"):
        run.read_text("provenance.json")


def test_a_new_run_holds_no_litter(tmp_path: Path) -> None:
    run = RunFolder.create(str(tmp_path), "run")
    run.write_text(EXPERIMENT, "preset: toy\n")
    assert os.listdir(tmp_path / "run") == [EXPERIMENT]


def test_files_get_the_permissions_of_ordinary_files(tmp_path: Path) -> None:
    make_run(str(tmp_path), "run")
    (tmp_path / "ordinary").write_text("")
    assert (tmp_path / "run" / EXPERIMENT).stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_an_unknown_name_gives_the_nearest_run(runs_dir: str) -> None:
    make_run(runs_dir, "ppo-CartPole-v1-s0")
    with pytest.raises(UserError, match="did you mean 'ppo-CartPole-v1-s0'"):
        RunFolder.open("ppo-CartPole-v1-s1", runs_dir)
    with pytest.raises(UserError, match="did you mean 'ppo-CartPole-v1-s0'"):
        RunFolder.open(f"{runs_dir}/ppo-CartPol-v1-s0")


def test_an_unknown_name_lists_the_runs_if_none_is_near(runs_dir: str) -> None:
    make_run(runs_dir, "alpha")
    with pytest.raises(UserError, match=r"no run 'zzz' in .*; runs: alpha"):
        RunFolder.open("zzz", runs_dir)


def test_a_folder_that_is_missing_holds_no_runs(runs_dir: str) -> None:
    assert list_runs(runs_dir) == []
    with pytest.raises(UserError, match="there are no runs in it"):
        RunFolder.open("run", runs_dir)


def test_only_run_folders_are_listed(tmp_path: Path) -> None:
    make_run(str(tmp_path), "b")
    make_run(str(tmp_path), "a")
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("")
    assert list_runs(str(tmp_path)) == ["a", "b"]


def test_a_folder_without_an_experiment_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"not a run folder: it holds no experiment\.yaml"):
        RunFolder.open(str(tmp_path / "photos"))


def test_a_run_is_found_by_name_from_inside_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(str(tmp_path), "run")
    monkeypatch.chdir(tmp_path)
    assert RunFolder.open("run").local_path("") == tmp_path / "run"


def test_relative_paths_survive_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run("runs", "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.write_text("late.txt", "here")
    assert run.path == "runs/run"
    assert (tmp_path / "runs/run/late.txt").read_text() == "here"


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "two words"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="run name"):
        RunFolder.create(str(tmp_path), name)


def test_a_runs_folder_under_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make a run folder in '.*file/runs': Not a directory") as caught:
        RunFolder.create(str(tmp_path / "file/runs"), "run")
    assert "\n" not in str(caught.value)


def test_a_read_only_runs_folder_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="cannot make a run folder in '/proc/runs': "):
        RunFolder.create("/proc/runs", "run")


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write to the run folder '.*small/run': No space left on device"):
        RunFolder.create(str(small_disk), "run")
    assert list(small_disk.iterdir()) == []


def test_a_failed_write_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(str(tmp_path), "run")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write '.*experiment\.yaml': No space left on device"):
        run.write_text(EXPERIMENT, "preset: other\n")
    assert run.read_text(EXPERIMENT) == "preset: toy\n"
    assert os.listdir(tmp_path / "run") == [EXPERIMENT]


def test_storage_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="storage 'carrier-pigeon://roof' is not known"):
        RunFolder.create("carrier-pigeon://roof", "run")


def test_only_local_runs_have_local_paths(tmp_path: Path) -> None:
    local = RunFolder.create(str(tmp_path), "run")
    remote = RunFolder.create(f"memory://{uuid.uuid4().hex}", "run")
    assert local.local_path("tensorboard") == tmp_path / "run" / "tensorboard"
    assert remote.local_path("tensorboard") is None


def test_the_experiment_comes_back_as_it_was(toy_line: Line, runs_dir: str) -> None:
    experiment = load("toy-fixed", {"seed": 7, "checkpoint": {"keep": 5}})
    run = RunFolder.create(runs_dir, "run")
    run.write_text(EXPERIMENT, experiment.to_yaml())
    found = RunFolder.open("run", runs_dir)
    assert found.experiment() == experiment
    assert found.checkpoints.keep == 5


def test_an_experiment_that_is_damaged_names_the_file(toy_line: Line, tmp_path: Path) -> None:
    run = RunFolder.create(str(tmp_path), "run")
    run.write_text(EXPERIMENT, "preset: toy\nsteps: -1\n")
    with pytest.raises(UserError, match=r"run/experiment\.yaml: steps: expected greater than 0, got -1"):
        run.experiment()
    run.write_text(EXPERIMENT, "- toy\n")
    with pytest.raises(UserError, match="expected a mapping of experiment fields, got list"):
        run.experiment()


def test_metrics_and_checkpoints_lie_in_the_run_folder(tmp_path: Path) -> None:
    run = RunFolder.create(str(tmp_path), "run")
    run.metrics.append({"env_steps": 1})
    run.checkpoints.save(1, lambda folder: None)
    assert (tmp_path / "run/metrics.parquet").is_file()
    assert (tmp_path / "run/checkpoints/000000000001/MANIFEST.json").is_file()


def test_a_claimed_folder_has_the_name_itself_and_keeps_what_it_holds(runs_dir: str) -> None:
    half_made = RunFolder.claim(runs_dir, "trial")
    half_made.write_text("provenance.json", "{}")
    again = RunFolder.claim(runs_dir, "trial")
    assert (again.path, again.read_text("provenance.json")) == (half_made.path, "{}")


def test_a_folder_that_cannot_be_read_is_not_empty(tmp_path: Path) -> None:
    loop = tmp_path / "runs"
    loop.symlink_to(loop)
    with pytest.raises(UserError, match=r"cannot list the runs in '.*runs'"):
        list_runs(str(loop))
    with pytest.raises(UserError, match=r"cannot make the run folder '.*runs/trial'"):
        RunFolder.claim(str(loop), "trial")


def test_a_removed_folder_may_be_removed_again(runs_dir: str) -> None:
    run = make_run(runs_dir, "run")
    for _ in range(2):
        run.remove()
    assert list_runs(runs_dir) == []
