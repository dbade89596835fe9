"""Questions of the command line that are left without an answer."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from quadriga.platform import cli
from quadriga.platform.experiment import load
from quadriga.platform.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("walk_line")


class Interrupted(io.StringIO):
    """Somebody presses Ctrl-C."""

    def readline(self, size: int | None = -1) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize("terminal", [io.StringIO, Interrupted])
def test_a_question_without_an_answer_ends_the_command_and_nothing_is_deleted(
    terminal: type[io.StringIO], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder.create(str(tmp_path), "kept")
    run.write_text("experiment.yaml", load("walk").to_yaml())
    monkeypatch.setattr("sys.stdin", terminal())
    assert cli.run(["runs", "remove", "kept", "--runs-dir", str(tmp_path)]) == 130
    assert "delete" in capsys.readouterr().out
    assert run.exists("experiment.yaml")
