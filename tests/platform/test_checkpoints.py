"""Checkpoints: whole or not there, the latest few and the best, on a local disk and in remote storage."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from quadriga.platform.checkpoints import MANIFEST, Checkpoint, CheckpointStore
from quadriga.platform.errors import UserError


def local_store(tmp_path: Path, keep: int = 3) -> CheckpointStore:
    return CheckpointStore(fs.LocalFileSystem(), str(tmp_path / "checkpoints"), keep)


@pytest.fixture(params=["local", "memory", "subtree"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], CheckpointStore]:
    """Stores on a local disk and in two kinds of storage that are reached only through pyarrow."""

    def make(keep: int) -> CheckpointStore:
        if request.param == "local":
            return local_store(tmp_path, keep)
        if request.param == "memory":
            memory = fsspec.filesystem("memory", skip_instance_cache=True)
            return CheckpointStore(fs.PyFileSystem(fs.FSSpecHandler(memory)), f"{tmp_path.name}-{id(make)}/c", keep)
        return CheckpointStore(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "checkpoints", keep)

    return make


def writes(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights.bin").write_text(text)
        (folder / "learner" / "optimizer").mkdir(parents=True)
        (folder / "learner" / "optimizer" / "state.bin").write_bytes(text.encode() * 3)
        (folder / "empty.bin").write_bytes(b"")

    return write


def text_of(checkpoint: Checkpoint | None) -> str:
    assert checkpoint is not None
    with checkpoint.local() as folder:
        text = (folder / "weights.bin").read_text()
        assert (folder / "learner" / "optimizer" / "state.bin").read_bytes() == text.encode() * 3
        assert (folder / "empty.bin").read_bytes() == b""
        assert (folder / MANIFEST).is_file()
    return text


def steps(store: CheckpointStore) -> list[int]:
    return [checkpoint.step for checkpoint in store.list()]


def test_what_was_saved_comes_back(make_store: Callable[[int], CheckpointStore]) -> None:
    store = make_store(3)
    path = store.save(100, writes("one"), score=(0.0, 1.5))
    store.save(200, writes("two"), score=None)
    latest = store.latest()
    assert latest is not None
    assert (latest.step, latest.score, text_of(latest)) == (200, None, "two")
    best = store.best()
    assert best is not None
    assert (best.step, best.score, best.path, text_of(best)) == (100, (0.0, 1.5), path, "one")


def test_an_empty_store_has_no_checkpoint(make_store: Callable[[int], CheckpointStore]) -> None:
    store = make_store(3)
    assert (store.latest(), store.best(), store.list()) == (None, None, [])


def test_the_latest_few_and_the_best_are_kept(make_store: Callable[[int], CheckpointStore]) -> None:
    store = make_store(2)
    for step, score in [(1, 0.0), (2, 9.0), (3, 1.0), (4, 2.0), (5, 3.0)]:
        store.save(step, writes(str(step)), score=(score,))
    assert steps(store) == [2, 4, 5]
    assert text_of(store.best()) == "2"


def test_of_equal_scores_the_newest_is_best(make_store: Callable[[int], CheckpointStore]) -> None:
    store = make_store(1)
    store.save(1, writes("1"), score=(5.0,))
    store.save(2, writes("2"), score=(5.0,))
    assert text_of(store.best()) == "2"
    assert steps(store) == [2]


def test_steps_are_ordered_as_numbers(make_store: Callable[[int], CheckpointStore]) -> None:
    store = make_store(5)
    for step in (9, 10**13, 0, 100):
        store.save(step, writes(str(step)), score=None)
    assert steps(store) == [0, 9, 100, 10**13]


def test_a_score_with_nan_is_no_score(make_store: Callable[[int], CheckpointStore]) -> None:
    store = make_store(1)
    store.save(1, writes("1"), score=(1.0, math.nan))
    assert store.best() is None


def test_infinite_scores_are_ordered(make_store: Callable[[int], CheckpointStore]) -> None:
    store = make_store(3)
    store.save(1, writes("1"), score=(1.0,))
    store.save(2, writes("2"), score=(-math.inf,))
    assert text_of(store.best()) == "1"


def test_saving_a_step_again_replaces_it(make_store: Callable[[int], CheckpointStore]) -> None:
    store = make_store(3)
    store.save(1, writes("before"), score=(9.0,))
    for text in ("second", "third"):
        store.save(2, writes(text), score=(1.0,))
    store.save(1, writes("after"), score=(0.0,))
    assert [(found.step, text_of(found)) for found in store.list()] == [(1, "after"), (2, "third")]
    assert text_of(store.best()) == "third"


def test_a_save_that_fails_half_way_leaves_the_one_before(make_store: Callable[[int], CheckpointStore]) -> None:
    store = make_store(3)
    store.save(1, writes("good"), score=None)

    def half(folder: Path) -> None:
        writes("bad")(folder)
        raise OSError(28, "No space left on device")

    for step in (1, 2):
        with pytest.raises(
            UserError, match=rf"cannot save the checkpoint of step {step} in .*: No space left on device"
        ):
            store.save(step, half, score=None)
    assert steps(store) == [1]
    assert text_of(store.latest()) == "good"


def test_a_defect_of_the_writer_keeps_its_traceback_and_leaves_no_litter(tmp_path: Path) -> None:
    store = local_store(tmp_path)

    def defective(folder: Path) -> None:
        writes("bad")(folder)
        raise KeyError("weights")

    with pytest.raises(KeyError, match="weights"):
        store.save(1, defective, score=None)
    assert os.listdir(tmp_path / "checkpoints") == []


def test_a_full_disk_is_a_clear_error_whatever_the_writer_raises(small_disk: Path) -> None:
    store = CheckpointStore(fs.LocalFileSystem(), str(small_disk / "checkpoints"), 3)
    store.save(1, writes("good"), score=None)

    def too_much(folder: Path) -> None:
        try:
            (folder / "weights.bin").write_bytes(bytes(1 << 20))
        except OSError:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed") from None

    with pytest.raises(UserError, match=r"cannot save the checkpoint of step 2 in .*: No space left on device"):
        store.save(2, too_much, score=None)
    assert os.listdir(small_disk / "checkpoints") == ["000000000001"]
    assert text_of(store.latest()) == "good"


def test_a_store_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(UserError, match=r"cannot save the checkpoint of step 1 in .*: File exists"):
        local_store(tmp_path).save(1, writes("x"), score=None)


def test_what_a_killed_save_left_behind_is_no_checkpoint_and_goes_with_the_next_save(tmp_path: Path) -> None:
    store = local_store(tmp_path)
    store.save(1, writes("good"), score=None)
    half = tmp_path / "checkpoints" / ".saving-killed" / "checkpoint"
    half.mkdir(parents=True)
    writes("half")(half)
    assert text_of(store.latest()) == "good"
    store.save(2, writes("next"), score=None)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["000000000001", "000000000002"]


def truncate(folder: Path) -> None:
    os.truncate(folder / "weights.bin", 1)


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "weights.bin").read_bytes())
    content[0] ^= 1
    (folder / "weights.bin").write_bytes(content)


def delete_a_file(folder: Path) -> None:
    (folder / "learner/optimizer/state.bin").unlink()


def delete_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def truncate_the_manifest(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 20)


def change_the_step(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "step": 7}))


def replace_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('["files"]')


def point_outside(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"weights.bin"', '"../000000000001/weights.bin"'))


DAMAGES = [
    truncate,
    flip_a_bit,
    delete_a_file,
    delete_the_manifest,
    truncate_the_manifest,
    change_the_step,
    replace_the_manifest,
    point_outside,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = local_store(tmp_path)
    store.save(1, writes("good"), score=(1.0,))
    torn = store.save(2, writes("torn"), score=(2.0,))
    damage(Path(torn))
    with caplog.at_level(logging.WARNING, logger="quadriga"):
        assert text_of(store.latest()) == "good"
    assert torn in caplog.text
    assert text_of(store.best()) == "good"


def test_without_verification_contents_are_not_read(tmp_path: Path) -> None:
    store = local_store(tmp_path)
    flip_a_bit(Path(store.save(1, writes("flipped"), score=None)))
    assert store.latest() is None
    unverified = store.latest(verify=False)
    assert unverified is not None and unverified.step == 1


def test_damaged_checkpoints_do_not_push_out_whole_ones(tmp_path: Path) -> None:
    store = local_store(tmp_path, keep=2)
    store.save(1, writes("good"), score=None)
    truncate(Path(store.save(2, writes("torn"), score=None)))
    store.save(3, writes("new"), score=None)
    assert steps(store) == [1, 3]
    assert not (tmp_path / "checkpoints" / "000000000002").exists()


def test_a_damaged_step_can_be_saved_again(tmp_path: Path) -> None:
    store = local_store(tmp_path)
    truncate(Path(store.save(1, writes("torn"), score=None)))
    store.save(1, writes("whole"), score=None)
    assert text_of(store.latest()) == "whole"
    assert len(os.listdir(tmp_path / "checkpoints")) == 1


def test_an_upload_that_was_cut_off_is_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "checkpoints", 3)
    store.save(1, writes("good"), score=None)
    path = store.save(2, writes("cut off"), score=None)
    (tmp_path / path / MANIFEST).unlink()  # the manifest is uploaded last
    assert steps(store) == [1]
    assert text_of(store.latest()) == "good"


def test_a_download_ends_with_its_context(tmp_path: Path) -> None:
    store = CheckpointStore(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "checkpoints", 3)
    store.save(1, writes("x"), score=None)
    latest = store.latest()
    assert latest is not None
    with latest.local() as folder:
        assert tmp_path not in folder.parents
    assert not folder.exists()


def test_a_local_checkpoint_is_not_copied(tmp_path: Path) -> None:
    store = local_store(tmp_path)
    path = store.save(1, writes("x"), score=None)
    latest = store.latest()
    assert latest is not None
    with latest.local() as folder:
        assert folder == Path(path)
    assert folder.is_dir()


def test_checkpoints_move_with_their_folder(tmp_path: Path) -> None:
    local_store(tmp_path / "here").save(1, writes("x"), score=(1.0,))
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert text_of(local_store(tmp_path / "there").best()) == "x"


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    store = local_store(tmp_path, keep=1)
    (tmp_path / "checkpoints" / "my-notes").mkdir(parents=True)
    store.save(1, writes("1"), score=None)
    store.save(2, writes("2"), score=None)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["000000000002", "my-notes"]


class Flaky(MemoryFileSystem):
    """Storage that fails for a while on some files."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    failing = ""

    def info(self, path: str, **options: Any) -> Any:
        if self.failing and self.failing in path:
            raise OSError(errno.EIO, "Input/output error")
        return super().info(path, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if self.failing and self.failing in path:
            raise OSError(errno.EIO, "Input/output error")
        return super()._open(path, mode, **options)


@pytest.mark.parametrize("name", [MANIFEST, "weights.bin"])
def test_a_checkpoint_that_cannot_be_read_for_a_while_is_kept(tmp_path: Path, name: str) -> None:
    flaky = Flaky(skip_instance_cache=True)
    store = CheckpointStore(fs.PyFileSystem(fs.FSSpecHandler(flaky)), f"{tmp_path.name}/c", keep=2)
    best = store.save(1, writes("best"), score=(9.0,))
    for step in (2, 3, 4):
        flaky.failing = f"{best}/{name}"
        store.save(step, writes(str(step)), score=None)
        assert store.best() is None
        flaky.failing = ""
        assert text_of(store.best()) == "best"
    assert steps(store) == [1, 3, 4]


@pytest.mark.parametrize("name", [MANIFEST, "weights.bin"])
def test_where_nothing_can_be_read_there_is_not_nothing(tmp_path: Path, name: str) -> None:
    flaky = Flaky(skip_instance_cache=True)
    store = CheckpointStore(fs.PyFileSystem(fs.FSSpecHandler(flaky)), f"{tmp_path.name}/c", keep=2)
    store.save(1, writes("only"), score=None)
    flaky.failing = name
    with pytest.raises(UserError, match=r"cannot read the checkpoints in .*Input/output error"):
        store.latest()
    flaky.failing = ""
    assert text_of(store.latest()) == "only"
