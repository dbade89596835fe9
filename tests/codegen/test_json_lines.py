"""Files that only grow: whole lines stay whatever happens, and what happens is said."""

from pathlib import Path

import pytest

from quadriga.codegen.json_lines import GrowingFile
from quadriga.platform.errors import UserError


def test_a_full_disk_is_said_by_the_one_who_writes(tmp_path):
    path = tmp_path / "s.jsonl"
    path.symlink_to(Path("/dev/full"))
    file = GrowingFile(path)

    def fill():
        try:
            file.append([{"n": 1}])
        finally:
            file.close()

    with pytest.raises(UserError, match=r"s\.jsonl: cannot be written: No space left on device; what it holds stays"):
        fill()
    file.close()


def test_a_line_that_was_cut_off_is_taken_away_and_others_stay(tmp_path):
    path = tmp_path / "s.jsonl"
    long = {"text": "x" * 200_000}
    for rows in ([{"n": 1}, long], [{"n": 2}]):
        file = GrowingFile(path)
        file.append(rows)
        file.close()
        with path.open("a") as torn:
            torn.write('{"n":')
    GrowingFile(path).close()
    assert [len(line) for line in path.read_text().splitlines()] == [8, len('{"text": ""}') + 200_000, 8]
