"""The token: made once, readable by its user alone, never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from quadriga.platform import tokens


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in tokens.SOURCES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_new_token_is_secret_and_stays(nobody: Path) -> None:
    assert tokens.read() is None and not tokens.exists()
    tokens.ensure()
    made = tokens.read()
    assert made is not None and len(made) == 64
    assert (nobody / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    tokens.ensure()
    assert tokens.read() == made


def test_the_environment_names_another(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nobody / "mine").write_text("abc\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(nobody / "mine"))
    assert tokens.read() == "abc"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "def")
    assert tokens.read() == "def"
    tokens.ensure()
    assert not (nobody / ".ray").exists()
