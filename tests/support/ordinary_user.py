"""Runs a script as a user who owns nothing, with a Python and a copy of the package that everybody may read."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from quadriga.codegen.sandbox import supervisor
from quadriga.platform import errors

USER = 65534


def run_as_ordinary_user(script: str, *arguments: str, packages: tuple[Path, ...] = (), files: tuple[Path, ...] = ()):
    """The finished process; its working folder holds copies of `files`, and it can import `packages`."""
    if os.geteuid() != 0:
        pytest.skip("this is one")
    public = [python for python in supervisor._system_pythons() if supervisor._is_public(python)]
    if not public:
        pytest.skip("no Python that an ordinary user may run")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        package = Path(folder) / "quadriga"
        shutil.copytree(Path(supervisor.__file__).parents[1], package / "codegen")
        (package / "platform").mkdir()
        shutil.copy(errors.__file__, package / "platform")
        for source in packages:
            shutil.copytree(source, Path(folder) / source.name)
        for source in files:
            shutil.copy(source, folder)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        return subprocess.run(
            [public[0], "-c", script, *arguments],
            env={"PYTHONPATH": folder},
            cwd=folder,
            user=USER,
            group=USER,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
