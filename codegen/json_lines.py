"""A file of JSON lines that only ever grows, so that what is in it survives whatever happens to the process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quadriga.platform.errors import UserError


class GrowingFile:
    """Open for appending; a last line that was cut off in the middle is taken away first."""

    def __init__(self, path: Path) -> None:
        """Opens or makes it.

        Raises:
            UserError: it cannot be written.
        """
        self.path = path
        try:
            self._file = path.open("a+b", buffering=0)  # what a full disk refused is not tried again when it closes
            end = self._file.seek(0, os.SEEK_END)
            whole = _last_line_end(self._file, end)
            if whole < end:
                self._file.truncate(whole)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds rows; they are with the system when this returns.

        Raises:
            UserError: the disk is full or gone; what was there before still is.
        """
        data = "".join(json.dumps(row) + "\n" for row in rows).encode("ascii")
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written: {error.strerror}; what it holds stays, and the same command goes on"
            ) from error

    def close(self) -> None:
        """Closes it, safe against a loss of power. May be called twice."""
        if not self._file.closed:
            try:
                os.fsync(self._file.fileno())
            except OSError:
                pass  # some filesystems know no fsync
            finally:
                self._file.close()


def _last_line_end(file: Any, end: int) -> int:
    """Where the last whole line ends."""
    position = end
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return int(start + found + 1)
        position = start
    return 0
