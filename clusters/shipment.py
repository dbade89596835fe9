"""What a submitted job takes along: this very Quadriga and the files it works on, and nothing else.

The packages are laid out as `quadriga/...` at the root of the job's working folder, which is first on
the path there, so that a job runs the code that it was submitted with, whatever the cluster's image
holds. Environments, run folders, caches and what git ignores stay behind.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from quadriga.platform import provenance
from quadriga.platform.errors import UserError

LEFT_BEHIND = {
    ".git", ".venv", "venv", "runs", "build", "dist", "node_modules", "__pycache__", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".hypothesis", ".typecheck",
}  # fmt: skip
MAX_BYTES = 100 << 20
DISTRIBUTION = "quadriga"


def stage_code(target: Path, wheel: Path | None = None) -> str:
    """Lays out the packages and their metadata in `target`.

    Args:
        target: an existing folder.
        wheel: ships this one; by default the Quadriga that runs: of a checkout, the files that git tracks or would.

    Returns:
        What was shipped, for people.

    Raises:
        UserError: the wheel is none of ours.
    """
    if wheel is not None:
        return _unpack(wheel, target)
    distribution = importlib.metadata.distribution(DISTRIBUTION)
    checkout = _checkout(distribution)
    if checkout is None:
        for file in distribution.files or ():
            if file.parts[0] == DISTRIBUTION and "__pycache__" not in file.parts:
                _copy(Path(str(file.locate())), target / file)
    else:
        project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
        folders = {name: checkout / folder for name, folder in project["tool"]["setuptools"]["package-dir"].items()}
        for path in _files(checkout):
            name = next((name for name, folder in folders.items() if folder in path.parents), None)
            if name is not None:
                _copy(path, target.joinpath(*name.split(".")) / path.relative_to(folders[name]))
        state = provenance.git_state(checkout)
        (target / DISTRIBUTION / provenance.SHIPPED).write_text(json.dumps(state), encoding="utf-8")
    metadata = target / f"{DISTRIBUTION}-{distribution.version}.dist-info"
    metadata.mkdir()
    for name in ("METADATA", "entry_points.txt"):
        (metadata / name).write_text(distribution.read_text(name) or "", encoding="utf-8")
    return f"quadriga {distribution.version}" + (f" of {checkout}" if checkout else "")


def stage_files(source: Path, target: Path) -> int:
    """Copies a working folder: in a git checkout what git tracks or would, else all but `LEFT_BEHIND`.

    Returns:
        Bytes copied.

    Raises:
        UserError: it is no folder, or holds more than 100 MB.
    """
    if not source.is_dir():
        raise UserError(f"--working-dir {source}: no such folder")
    size = 0
    for path in _files(source.resolve()):
        size += path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(
                f"--working-dir {source}: holds more than {MAX_BYTES >> 20} MB; give the folder that the job needs, "
                "and keep data where the cluster's machines can read them"
            )
        _copy(path, target / path.relative_to(source.resolve()))
    return size


def _files(folder: Path) -> Iterator[Path]:
    git = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, check=False)
    except OSError:  # no git here
        listed = None
    if listed is not None and listed.returncode == 0:
        paths = [folder / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
        yield from sorted(path for path in set(paths) if path.is_file() and not _left_behind(path, folder))
        return
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in LEFT_BEHIND)
        yield from (path for name in sorted(names) if (path := Path(root, name)).is_file())


def _left_behind(path: Path, folder: Path) -> bool:
    return bool(LEFT_BEHIND.intersection(path.relative_to(folder).parts))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _checkout(distribution: importlib.metadata.Distribution) -> Path | None:
    """The checkout of an editable installation."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    folder = Path(unquote(urlsplit(origin["url"]).path))
    return folder if (folder / "pyproject.toml").is_file() else None


def _unpack(wheel: Path, target: Path) -> str:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            if not any(name.startswith(f"{DISTRIBUTION}/platform/") for name in names):
                raise UserError(f"--wheel {wheel}: no wheel of quadriga")
            if any(Path(name).is_absolute() or ".." in Path(name).parts for name in names):
                raise UserError(f"--wheel {wheel}: names files outside itself")
            archive.extractall(target)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"--wheel {wheel}: {getattr(error, 'strerror', None) or error}") from None
    return wheel.name
