"""Where data sets lie, and files from the network that are checked before they are used."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from quadriga.platform.errors import UserError, one_line

VARIABLE = "QUADRIGA_DATA"
DEFAULT = "~/.cache/quadriga/data"
TIMEOUT_S = 60.0
CHUNK = 1 << 20
ATTEMPTS = 3


def resolve(given: str | None) -> Path:
    """The folder of all data sets: `given`, else that of `QUADRIGA_DATA`, else `~/.cache/quadriga/data`."""
    return Path(given or os.environ.get(VARIABLE) or DEFAULT).expanduser().absolute()


def md5(path: Path) -> str:
    """The file's MD5 in hexadecimal, which is what publishers of old data sets give."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def verify(path: Path, expected_md5: str) -> None:
    """Raises `UserError` if the file is not the one that was published."""
    found = md5(path)
    if found != expected_md5:
        raise UserError(f"{path} is corrupt: its MD5 is {found}, expected {expected_md5}; delete it and fetch it again")


def fetch(url: str, target: Path, expected_md5: str) -> None:
    """Downloads `url` to `target` unless it is there already; the file appears when it is whole and right.

    A download that breaks off goes on from where it was, `ATTEMPTS` times.

    Raises:
        UserError: no answer, no room, or other bytes than were published.
    """
    if target.exists():
        verify(target, expected_md5)
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(url, partial)
        found = md5(partial)
        if found != expected_md5:
            raise UserError(
                f"what came from {url} is corrupt: its MD5 is {found}, expected {expected_md5}; nothing was kept"
            )
        partial.replace(target)
    except (http.client.HTTPException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot download {url} to {target}: {one_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def _download(url: str, partial: Path) -> None:
    """Writes all of `url` to `partial`."""
    done = 0
    for _ in range(ATTEMPTS):
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            if answer.status != http.client.PARTIAL_CONTENT:
                done = 0  # a server that does not know of ranges sends everything again
            length = answer.headers.get("Content-Length")
            total = None if length is None else done + int(length)
            broken = False
            with partial.open("ab" if done else "wb") as stream:
                try:
                    while chunk := answer.read(CHUNK):
                        done += stream.write(chunk)
                except (ConnectionError, TimeoutError, http.client.IncompleteRead):
                    broken = True
        if not broken and total in (None, done):
            return
    promised = "" if total is None else f" of {total:,}"
    raise OSError(f"the connection broke off {ATTEMPTS} times, at last after {done:,} bytes{promised}")
