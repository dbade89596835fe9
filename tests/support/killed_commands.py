"""Commands of `quadriga` in a process of their own, killed in the middle and started again."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def command(*words: object) -> list[str]:
    """`quadriga` with these words, by this Python."""
    return [sys.executable, "-m", "quadriga.platform.cli", *map(str, words)]


def kill_when(ready: Callable[[], bool], *words: object) -> None:
    """Starts the command and kills it (`SIGKILL`) as soon as `ready` says so, which must be before its end."""
    with subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not ready():
            assert process.poll() is None, (
                f"it was to be killed before its end: {process.stderr and process.stderr.read()!r}"
            )
            time.sleep(0.002)
        process.kill()


def finish(*words: object) -> dict[str, Any]:
    """Runs the command to its end; the last line that it printed, which is JSON."""
    done = subprocess.run(command(*words), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def lines(path: Path) -> int:
    """Whole lines in a file, none if it is not there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rows(path: Path) -> list[dict[str, Any]]:
    """Of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
