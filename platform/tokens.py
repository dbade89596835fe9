"""The token that Ray asks of everyone who talks to a cluster: where it is kept, and when ours is shown.

It is the user's own, `~/.ray/auth_token`, unless `RAY_AUTH_TOKEN` or `RAY_AUTH_TOKEN_PATH` names
another. It goes to clusters on this machine; to others only where `RAY_AUTH_MODE=token` says so.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from quadriga.platform.errors import UserError

MODE = "RAY_AUTH_MODE"
SOURCES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def default_path() -> Path:
    """Where Ray keeps the user's token."""
    return Path.home() / ".ray" / "auth_token"


def exists() -> bool:
    """Whether there is a token to show."""
    return bool(set(SOURCES) & set(os.environ)) or default_path().exists()


def ensure() -> None:
    """Makes a token for this user if there is none; nobody else can read the file.

    Raises:
        UserError: it cannot be written.
    """
    if exists():
        return
    path = default_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return  # another process was faster
    except OSError as error:
        raise UserError(f"cannot keep a token in {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32))


def read() -> str | None:
    """The token itself, for programs that are no part of Ray (a browser, Prometheus); `None` if there is none.

    Raises:
        UserError: the file that should hold it cannot be read.
    """
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or default_path()).expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the token in {path}: {error}") from error


def show() -> None:
    """Shows our token from now on, unless `RAY_AUTH_MODE` is set or there is none.

    Ray starts clusters with a token, yet does not show it to an address that it is given.
    """
    if MODE in os.environ or not exists():
        return
    os.environ[MODE] = "token"
    if "ray" in sys.modules:  # it read the variable when it was imported
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")
