"""The wheel: complete, typed, and working in an empty folder without the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
FOLDERS = ("platform", "policies", "metalearn", "codegen", "clusters")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is committed or could be, so that the checkout stays clean."""
    pytest.importorskip("build")
    source = tmp_path_factory.mktemp("source")
    git = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, source / name)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(source / "dist"),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it, beside the packages that this one has; returns its folder."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    target = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # Only a folder on the path: the editable install's own .pth file in it is not run.
    (target / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    return folder


def command(installed: Path, folder: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_file_of_the_packages_is_in_the_wheel(root: Path, wheel: Path) -> None:
    git = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", *FOLDERS]
    listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
    tracked = {f"quadriga/{name}" for name in filter(None, listed) if (root / name).is_file()}
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("quadriga/")}
    assert tracked - inside == set()


def test_every_package_is_marked_as_typed(root: Path, wheel: Path) -> None:
    inside = zipfile.ZipFile(wheel).namelist()
    folders = [folder for folder in FOLDERS if any((root / folder).glob("*.py"))]
    assert [folder for folder in folders if f"quadriga/{folder}/py.typed" not in inside] == []


def test_the_version_has_one_place(root: Path, wheel: Path, installed: Path, tmp_path: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert wheel.name.startswith(f"quadriga-{version}-")
    said = command(installed, tmp_path, str(installed / "bin" / "quadriga"), "--version")
    assert said == f"quadriga {version}\n"


def test_it_is_the_wheel_that_runs_and_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    program = "import quadriga.platform.cli as cli; print(cli.__file__)"
    said = command(installed, tmp_path, str(installed / "bin" / "python"), "-c", program)
    assert Path(said.strip()).is_relative_to(installed)


def test_it_checks_itself_trains_and_reports_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    script = str(installed / "bin" / "quadriga")
    assert json.loads(command(installed, tmp_path, script, "doctor", "--json"))["healthy"]
    command(
        installed, tmp_path, script, "train", "ppo", "--env", "CartPole-v1", "--steps", "4000", "--name", "first",
        "--set", "rollout.batch_size=1000", "--quiet",
    )  # fmt: skip
    (run,) = (json.loads(line) for line in command(installed, tmp_path, script, "runs", "--json").splitlines())
    assert (run["name"], run["state"]) == ("first", "done")
    command(installed, tmp_path, script, "evaluate", "first", "--episodes", "2")
    command(installed, tmp_path, script, "export", "first", "-o", "policy.pt")
    command(installed, tmp_path, script, "report", "first")
    assert (tmp_path / "runs" / "first" / "report.html").stat().st_size > 1_000_000
    assert (tmp_path / "policy.pt").exists()
