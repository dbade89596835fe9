"""What a run records about where it comes from."""

from __future__ import annotations

import datetime
import getpass
import importlib.metadata
import json
import platform
import socket
import subprocess
from pathlib import Path

import pytest

from quadriga.platform.provenance import CHECKOUT, collect, git_state, package_version


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "file").write_text("one")
    (folder / ".gitignore").write_text("ignored\n")
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_everything_that_a_repetition_needs_is_there() -> None:
    found = collect(7, ["quadriga", "train", "ppo"])
    assert found["seed"] == 7
    assert found["argv"] == ["quadriga", "train", "ppo"]
    assert found["version"] == importlib.metadata.version("quadriga")
    assert found["python"] == platform.python_version()
    for package in ("ray", "numpy", "gymnasium", "mujoco", "pyarrow"):
        assert found["packages"][package] == importlib.metadata.version(package)
    assert found["hardware"]["cpu"]
    assert 1 <= found["hardware"]["usable_cores"] <= found["hardware"]["cores"]
    assert found["hardware"]["memory_bytes"] > 1 << 28
    assert isinstance(found["hardware"]["gpus"], list)


def test_it_is_plain_json() -> None:
    found = collect(0, ["quadriga"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_time_is_utc() -> None:
    time = datetime.datetime.fromisoformat(collect(0, [])["time_utc"])
    assert time.utcoffset() == datetime.timedelta(0)
    assert abs(datetime.datetime.now(datetime.UTC) - time) < datetime.timedelta(minutes=5)


def test_neither_machine_nor_user_is_named() -> None:
    text = json.dumps(collect(0, []))
    assert json.dumps(socket.gethostname()) not in text
    assert json.dumps(getpass.getuser()) not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"


def test_the_commit_of_a_clean_checkout_is_recorded(checkout: Path) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    (checkout / "ignored").write_text("")
    assert git_state(checkout) == {"commit": head.stdout.strip(), "dirty": False}


@pytest.mark.parametrize("name", ["file", "new-file"])
def test_changed_and_new_files_make_a_checkout_dirty(checkout: Path, name: str) -> None:
    (checkout / name).write_text("two")
    state = git_state(checkout)
    assert state is not None and state["dirty"] is True


def test_a_package_installed_inside_a_checkout_is_not_taken_for_it(checkout: Path) -> None:
    inside = checkout / "venv" / "site-packages"
    inside.mkdir(parents=True)
    assert git_state(inside) is None


def test_no_checkout_or_no_git_is_no_commit(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(checkout) is None


def test_a_hook_of_another_repository_does_not_mislead(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = git_state(checkout)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert git_state(checkout) == expected is not None


def test_the_checkout_is_where_the_package_lies() -> None:
    assert (CHECKOUT / "platform" / "provenance.py").is_file()


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert package_version("quadriga-of-the-future") is None
