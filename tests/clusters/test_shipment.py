"""A job takes this very code along, and nothing that is not needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from quadriga.clusters import shipment
from quadriga.platform.errors import UserError


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    shipment.stage_code(folder)
    return folder


def test_packages_are_those_of_the_checkout_byte_for_byte(staged: Path, root: Path) -> None:
    for folder in ("platform", "policies", "metalearn", "codegen", "clusters"):
        listed = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder],
            capture_output=True,
            check=True,
        ).stdout.split(b"\0")
        for name in filter(None, map(os.fsdecode, listed)):
            assert (staged / "quadriga" / name).read_bytes() == (root / name).read_bytes()
    assert [path.name for path in staged.iterdir() if path.name != "quadriga"] == [
        path.name for path in staged.glob("quadriga-*.dist-info")
    ]
    assert not list(staged.rglob("__pycache__")) and not list(staged.rglob("__init__.py"))


def test_shipped_code_runs_before_the_installed_one(staged: Path, tmp_path: Path) -> None:
    program = (
        "import sys, json, quadriga.platform.cli as cli; from quadriga.platform import provenance, lines;"
        "print(json.dumps([cli.__file__, provenance.collect(0, [])['git'], sorted(lines.all_lines())]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(staged)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    file, git, lines = json.loads(done.stdout)
    assert Path(file) == staged / "quadriga" / "platform" / "cli.py"
    assert set(git) == {"commit", "dirty"}
    assert {"rl", "meta"} <= set(lines)


def test_working_folder_goes_without_environments_runs_and_caches(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for name in ("a.yaml", "deep/b.py", "runs/r/metrics.parquet", ".venv/x", "deep/__pycache__/b.pyc", ".git/config"):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    shipment.stage_files(source, target)
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()) == [
        "a.yaml",
        "deep/b.py",
    ]


def test_what_git_ignores_stays_behind(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    subprocess.run(["git", "init", "-q", str(source)], check=True)
    (source / ".gitignore").write_text("*.ckpt\n")
    (source / "big.ckpt").write_text("x")
    (source / "new.py").write_text("x")
    shipment.stage_files(source, target)
    assert sorted(path.name for path in target.iterdir()) == [".gitignore", "new.py"]


def test_a_folder_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipment, "MAX_BYTES", 10)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "big").write_bytes(bytes(11))
    with pytest.raises(UserError, match="holds more than"):
        shipment.stage_files(tmp_path / "source", tmp_path / "target")


def test_wheel_is_unpacked_and_another_one_refused(tmp_path: Path) -> None:
    ours, other = tmp_path / "quadriga-9-py3-none-any.whl", tmp_path / "other.whl"
    with zipfile.ZipFile(ours, "w") as archive:
        archive.writestr("quadriga/platform/cli.py", "x = 1")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("other/x.py", "x = 1")
    assert shipment.stage_code(tmp_path / "a", ours) == ours.name
    assert (tmp_path / "a" / "quadriga" / "platform" / "cli.py").read_text() == "x = 1"
    with pytest.raises(UserError, match="no wheel of quadriga"):
        shipment.stage_code(tmp_path / "b", other)
    with pytest.raises(UserError, match="No such file"):
        shipment.stage_code(tmp_path / "c", tmp_path / "none.whl")
