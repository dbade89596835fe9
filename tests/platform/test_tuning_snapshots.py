"""The state of a search is whole whenever its process is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from quadriga.platform.tuning_snapshots import NAMES, Snapshots

FILE, POINTS = "experiment_state-1.json", "searcher.pkl"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


def keep(snapshots: Snapshots, staging: Path, content: str) -> None:
    (staging / FILE).write_text(content)
    (staging / POINTS).write_text(f"points of {content}")
    (staging / "result.csv").write_text("no state")
    snapshots.keep(staging)


@pytest.mark.parametrize("scheme", ["", "local://"])
def test_the_newest_whole_state_is_put_back(tmp_path: Path, staging: Path, scheme: str) -> None:
    tune = tmp_path / "tune"
    for number in range(4):  # as many processes, one after the other
        keep(Snapshots(f"{scheme}{tune}"), staging, f"state {number}")
    (tune / FILE).write_text("torn by a ki")
    (tune / "experiment_state-2.json").write_text("{")  # of a session that was killed when it began
    assert Snapshots(f"{scheme}{tune}").put_back()
    assert (tune / FILE).read_text() == "state 3"
    assert (tune / POINTS).read_text() == "points of state 3"
    assert sorted(file.name for file in tune.iterdir()) == sorted([FILE, POINTS, *NAMES])


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_torn_archive_is_passed_over(tmp_path: Path, staging: Path, damage: bytes | None) -> None:
    snapshots = Snapshots(str(tmp_path / "tune"))
    keep(snapshots, staging, "first")
    keep(snapshots, staging, "second")
    newest = tmp_path / "tune" / NAMES[0]
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert Snapshots(str(tmp_path / "tune")).put_back()
    assert (tmp_path / "tune" / FILE).read_text() == "first"
    keep(Snapshots(str(tmp_path / "tune")), staging, "third")
    assert Snapshots(str(tmp_path / "tune")).put_back()
    assert (tmp_path / "tune" / FILE).read_text() == "third"


def test_a_damaged_archive_is_passed_over_wherever_the_damage_is(tmp_path: Path, staging: Path) -> None:
    snapshots = Snapshots(str(tmp_path / "tune"))
    keep(snapshots, staging, "first")
    keep(snapshots, staging, "second")
    newest = tmp_path / "tune" / NAMES[0]
    whole = newest.read_bytes()
    for place in range(len(whole)):
        newest.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert Snapshots(str(tmp_path / "tune")).put_back()


def test_without_an_archive_nothing_is_touched(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("Tune's own")
    assert not Snapshots(str(tmp_path)).put_back()
    assert (tmp_path / FILE).read_text() == "Tune's own"
