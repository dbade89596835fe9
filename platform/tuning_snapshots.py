"""Tune's state on storage, whole at any time: what a killed search is resumed from.

Tune writes its state in place, file by file, in the background; of a search that is killed meanwhile it finds a torn
file and begins anew without a word. Here every state is an archive with checksums beside it, under two names in turn.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

from quadriga.platform import storage

TUNE = "tune"
"""Folder of Tune's state in that of a search."""

NAMES = ("state-0.zip", "state-1.zip")
SUFFIXES = (".json", ".pkl")
DAMAGE = (OSError, ValueError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile)
"""What reading an archive that is torn or damaged raises."""

STATE = "experiment_state-"
"""Tune's main file; it takes the newest by name."""


class Snapshots:
    """The archives in the folder of Tune's state.

    Args:
        location: path or URI of that folder.
    """

    def __init__(self, location: str) -> None:
        self._filesystem, self._root = storage.resolve(location)
        self._count, _ = self._newest()

    def keep(self, staging: Path) -> None:
        """Archives the state that Tune has written to its local folder.

        Raises:
            OSError: it cannot be stored; the one before still is.
        """
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file in sorted(staging.iterdir()):
                if file.suffix in SUFFIXES:
                    archive.write(file, file.name)
            self._count += 1
            archive.comment = str(self._count).encode()
        name = NAMES[self._count % len(NAMES)]
        storage.write(self._filesystem, f"{self._root}/{name}", packed.getvalue(), durable=False)

    def put_back(self) -> bool:
        """Replaces Tune's files by those of the newest whole archive; false if there is none.

        Raises:
            OSError: storage does not answer.
        """
        _, files = self._newest()
        for name, content in files.items():
            storage.write(self._filesystem, f"{self._root}/{name}", content)
        for name in storage.files(self._filesystem, self._root) if files else ():
            if name.startswith(STATE) and name not in files:
                self._filesystem.delete_file(f"{self._root}/{name}")
        return bool(files)

    def _newest(self) -> tuple[int, dict[str, bytes]]:
        """Number and files of the newest whole archive; 0 and none without one."""
        whole: tuple[int, dict[str, bytes]] = (0, {})
        for name in NAMES:
            try:
                packed = storage.read(self._filesystem, f"{self._root}/{name}")
                with zipfile.ZipFile(io.BytesIO(packed)) as archive:
                    found = int(archive.comment), {each: archive.read(each) for each in archive.namelist()}
            except DAMAGE:
                continue
            whole = max(whole, found, key=lambda each: each[0])
        return whole
