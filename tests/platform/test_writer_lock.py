"""One process at a time writes a local folder, and no lock outlives its holder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quadriga.platform.writer_lock import LOCK, FolderTaken, writing

HOLD = """\
import sys
from pathlib import Path
from quadriga.platform.writer_lock import writing
with writing(Path(sys.argv[1]), "it is written"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the test's folder until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    said = rf"it is written by process {holder.pid} since 2"
    with pytest.raises(FolderTaken, match=said), writing(tmp_path, "it is written"):
        pass
    assert holder.poll() is None


def test_a_killed_writer_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with writing(tmp_path, "it is written"):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()


def test_a_writer_that_is_about_to_end_is_waited_for(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert holder.stdin is not None
    holder.stdin.close()
    with writing(tmp_path, "it is written", wait=60):
        pass


def test_a_copy_of_a_folder_under_work_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    copy = tmp_path.with_name(f"{tmp_path.name}-copy")
    shutil.copytree(tmp_path, copy)
    with writing(copy, "it is written"):
        assert str(os.getpid()) in (copy / LOCK).read_text()


def test_a_folder_can_be_taken_again_and_holds_no_litter(tmp_path: Path) -> None:
    for _ in range(2):
        with writing(tmp_path, "it is written"):
            with pytest.raises(FolderTaken, match=f"by process {os.getpid()} since"), writing(tmp_path, "again"):
                pass
            assert os.listdir(tmp_path) == [LOCK]
        assert os.listdir(tmp_path) == []


def test_a_folder_that_is_removed_meanwhile_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with writing(tmp_path / "run", "it is written"):
        shutil.rmtree(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_storage_takes_every_writer() -> None:
    with writing(None, "it is written"), writing(None, "it is written"):
        pass
