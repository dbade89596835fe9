"""The rules of the house, on the whole tree."""

import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

FOLDERS = ("platform", "policies", "metalearn", "codegen", "clusters")
STANDARD_PLATFORM = Path(sysconfig.get_path("stdlib")) / "platform.py"
MAX_LINES = 400


@pytest.fixture(scope="module")
def files(root):
    """Every file that is or could be committed."""
    git = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [root / name for name in listed.stdout.split("\0") if name and (root / name).is_file()]


def test_no_folder_at_the_top_is_a_regular_package(root):
    assert [folder for folder in FOLDERS if (root / folder / "__init__.py").exists()] == []


def test_platform_is_the_standard_library_s_from_the_repository_root(root):
    script = "import sys; sys.path.insert(0, ''); import platform; print(platform.__file__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == STANDARD_PLATFORM


def test_platform_is_the_standard_library_s_in_a_ray_worker(root, ray_session):
    import ray

    @ray.remote(num_cpus=1)
    def imported(folder):
        import importlib
        import os
        import platform
        import sys

        os.chdir(folder)
        sys.path.insert(0, folder)
        del sys.modules["platform"]
        again = importlib.import_module("platform")
        return platform.__file__, again.__file__

    assert [Path(file) for file in ray.get(imported.remote(str(root)))] == [STANDARD_PLATFORM] * 2


def test_every_folder_with_modules_is_a_package_of_the_distribution(root, files):
    project = tomllib.loads((root / "pyproject.toml").read_text())
    settings = project["tool"]["setuptools"]
    folders = {
        file.relative_to(root).parent
        for file in files
        if file.suffix == ".py" and file.relative_to(root).parts[0] in FOLDERS
    }
    expected = {".".join(("quadriga", *folder.parts)): folder.as_posix() for folder in folders}
    assert settings["package-dir"] == expected
    assert sorted(settings["packages"]) == sorted(expected)


def test_every_package_imports_by_its_name(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())
    script = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    subprocess.run([sys.executable, "-c", script, *project["tool"]["setuptools"]["packages"]], check=True)


def test_no_text_names_a_package_registry_or_somebody_s_home(files):
    # In pieces, so that this file does not name them either.
    hosts = "|".join(
        ("pypi" + r"\.org", "python" + r"hosted\.org", "registry" + r"\.npmjs", "registry" + r"-1\.docker")
    )
    homes = "|".join(("/ho" + "me/", "/ro" + "ot/", "/Us" + "ers/"))
    pattern = re.compile(rf"{hosts}|--(?:extra-)?index-url|(?<![\w./~$}}]){homes}\w")
    found = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{file.name}:{number}: {line}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    assert found == []


def test_no_module_is_longer_than_a_reader_s_patience(files, root):
    lengths = {
        str(file.relative_to(root)): len(file.read_text(encoding="utf-8").splitlines())
        for file in files
        if file.suffix == ".py" and "tests" not in file.relative_to(root).parts
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_requirements_are_exact_and_agree_with_the_constraints(root):
    pin = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s+]+)$")

    def pins(name):
        lines = (root / "requirements" / f"{name}.txt").read_text().splitlines()
        matches = [pin.match(line) for line in lines if line and not line.startswith("#")]
        assert all(matches), f"{name}.txt holds a line that is no exact pin"
        return {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in matches}

    constraints = pins("constraints")
    for name in ("torch", "base", "dev", "docs"):
        differing = {p: version for p, version in pins(name).items() if constraints.get(p) != version}
        assert differing == {}, name
