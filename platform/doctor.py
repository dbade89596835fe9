"""`quadriga doctor`: what is installed and works, what is missing, and how to put it right.

The table of packages here also answers for every other place that meets a missing one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from quadriga.platform import provenance
from quadriga.platform.errors import one_line

PROBE_TIMEOUT_S = 120.0
MEMORY_BYTES = 4 << 30
SHARED_MEMORY_BYTES = 1 << 30


class Package(NamedTuple):
    """A package that we use: its import name, the version that is tested, what it is for, whether all need it."""

    distribution: str
    module: str
    version: str
    purpose: str
    required: bool = True
    install: str | None = None

    @property
    def fix(self) -> str:
        """The command that installs the tested version."""
        return self.install or f"pip install '{self.distribution}=={self.version}.*'"


PACKAGES = (
    Package(
        "ray", "ray", "2.60", "distributed execution", install="pip install 'ray[default,rllib,tune,train]==2.60.*'"
    ),
    Package("torch", "torch", "2.13", "learning"),
    Package("numpy", "numpy", "2.3", "arrays"),
    Package("gymnasium", "gymnasium", "1.2", "environments"),
    Package("pydantic", "pydantic", "2", "experiment files"),
    Package("pyyaml", "yaml", "6", "experiment files"),
    Package("pyarrow", "pyarrow", "26", "metrics and storage"),
    Package("typer", "typer", "0.29", "command line"),
    Package("rich", "rich", "15", "progress display"),
    Package("matplotlib", "matplotlib", "3", "plots"),
    Package("tensorboardX", "tensorboardX", "2", "TensorBoard files", required=False),
    Package("mujoco", "mujoco", "3.3", "MuJoCo and Safety-Gymnasium tasks", required=False),
    Package(
        "safety-gymnasium",
        "safety_gymnasium",
        "1.0",
        "Safety-Gymnasium tasks",
        required=False,
        # Its own pins ask for packages of 2023.
        install="pip install --no-deps safety-gymnasium==1.0.0 && pip install xmltodict pygame pyyaml imageio",
    ),
    Package("imageio", "imageio", "2", "videos", required=False),
    Package(
        "imageio-ffmpeg", "imageio_ffmpeg", "0", "MP4 videos", required=False, install="pip install imageio-ffmpeg"
    ),
)

PROBES: dict[str, tuple[str, str]] = {
    "torch device": (
        "import torch\n"
        "cuda = torch.cuda.is_available()\n"
        "names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]\n"
        "print('CUDA: ' + ', '.join(names) if cuda else 'CPU only')",
        "torch cannot be imported: reinstall it",
    ),
    "ray": ("import ray.rllib; print('imports')", "Ray's RLlib cannot be imported: reinstall ray[rllib]"),
    "safety-gymnasium tasks": (
        "from quadriga.platform.environments.registry import make_env\n"
        "from quadriga.platform.environments.settings import EnvironmentSettings\n"
        "env = make_env(EnvironmentSettings(id='SafetyPointGoal1-v0')); env.reset(seed=0); env.close(); print('works')",
        "",
    ),
    "rendering": (
        "import os, subprocess, sys\n"
        'code = \'import mujoco as m; M = m.MjModel.from_xml_string("<mujoco/>"); D = m.MjData(M);'
        " m.mj_forward(M, D); r = m.Renderer(M, 32, 32); r.update_scene(D); r.render()'\n"
        "def works(gl):\n"
        "    environment = {**os.environ, 'MUJOCO_GL': gl}\n"
        "    run = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True)\n"
        "    return run.returncode == 0\n"
        "found = [gl for gl in ('egl', 'osmesa') if works(gl)]\n"
        "print('headless: ' + ' and '.join(found)) if found else sys.exit('neither EGL nor OSMesa works')",
        "for videos install a GL library: apt-get install libegl1 (GPU driver or Mesa) or libosmesa6",
    ),
    "video encoder": (
        "import imageio_ffmpeg, subprocess\n"
        "subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-version'], capture_output=True, check=True)\n"
        "print('ffmpeg ' + imageio_ffmpeg.get_ffmpeg_version())",
        "for MP4 videos: pip install imageio-ffmpeg (GIF works without)",
    ),
}
"""What is tried in a process of its own: a program that says what it found, and what to do if it fails."""

NEEDS = {
    "torch device": "torch",
    "ray": "ray",
    "safety-gymnasium tasks": "safety-gymnasium",
    "rendering": "mujoco",
    "video encoder": "imageio-ffmpeg",
}
REQUIRED_PROBES = ("torch device", "ray")

Status = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        status: `missing` if training cannot work so, `warning` if only something optional or untested.
        found: what is there.
        fix: what to do; empty if `ok`.
    """

    name: str
    status: Status
    found: str
    fix: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def examine(runs_dir: str = "runs") -> list[Check]:
    """Looks at everything; takes some seconds, for packages are really imported (elsewhere)."""
    checks = [_python(), *(_package(package) for package in PACKAGES)]
    installed = {package.distribution for package in PACKAGES if provenance.package_version(package.distribution)}
    names = [name for name in PROBES if NEEDS[name] in installed]
    with ThreadPoolExecutor(max_workers=2) as pool:
        checks += pool.map(_probe, names)
    return [*checks, *_lines(), *_machine(), _writable(runs_dir)]


def explain_import(error: Exception) -> str:
    """Why something could not be imported and what to install, on one line."""
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, Exception) else error
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return f"{type(error).__name__}: {one_line(error)}"
    module = error.name.partition(".")[0]
    if module == "quadriga":
        return f"module {error.name!r} is missing from this installation of quadriga"
    package = next((package for package in PACKAGES if package.module == module), None)
    if package is not None and provenance.package_version(package.distribution) is not None:
        return f"module {error.name!r} is missing; is the version of {package.distribution} right? see: quadriga doctor"
    install = package.fix if package is not None else f"pip install {module}"
    return f"package {module!r} is not installed: {install}"


def matches(found: str, tested: str) -> bool:
    """Whether version `found` belongs to the series `tested`: `2.60.1` to `2.60`, but not to `2.6`."""
    return found == tested or found.startswith(f"{tested}.")


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info[:2] == (3, 11)
    return Check("python", "ok" if fine else "warning", found, "" if fine else "tested with Python 3.11")


def _package(package: Package) -> Check:
    found = provenance.package_version(package.distribution)
    if found is None:
        status: Status = "missing" if package.required else "warning"
        return Check(package.distribution, status, "not installed", f"for {package.purpose}: {package.fix}")
    if package.version != "0" and not matches(found, package.version):
        return Check(package.distribution, "warning", found, f"tested with {package.version}: {package.fix}")
    return Check(package.distribution, "ok", found)


def _probe(name: str) -> Check:
    program, fix = PROBES[name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    failed: Status = "missing" if name in REQUIRED_PROBES else "warning"
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check(name, failed, f"no answer in {PROBE_TIMEOUT_S:g} seconds", fix)
    if done.returncode == 0:
        return Check(name, "ok", done.stdout.strip().splitlines()[-1])
    said = [line for line in done.stderr.splitlines() if line.strip() and not line[0].isspace()]
    return Check(name, failed, (said or ["failed"])[-1], fix)


def _lines() -> list[Check]:
    from quadriga.platform import lines

    checks = [Check(f"line of work {line.name}", "ok", line.summary) for line in lines.all_lines().values()]
    return checks + [
        Check(f"line of work {name}", "missing", "cannot be imported", explain_import(error))
        for name, error in lines.broken_lines().items()
    ]


def _machine() -> list[Check]:
    machine = provenance.hardware()
    cores, memory = machine["usable_cores"], machine["memory_bytes"]
    checks = [Check("cores", "ok", f"{cores} x {machine['cpu']}")]
    if memory is not None:
        little = "" if memory >= MEMORY_BYTES else "Ray and torch need about 4 GB; use fewer env runners"
        checks.append(Check("memory", "warning" if little else "ok", _gigabytes(memory), little))
    if sys.platform == "linux":
        try:
            shared = os.statvfs("/dev/shm")
            size = shared.f_blocks * shared.f_frsize
        except OSError:
            size = 0
        small = "" if size >= SHARED_MEMORY_BYTES else "Ray falls back to slow files; in Docker: --shm-size=4g"
        checks.append(Check("shared memory", "warning" if small else "ok", _gigabytes(size), small))
    return checks


def _writable(runs_dir: str) -> Check:
    """Tries a real file in the nearest folder that exists, so that looking leaves nothing behind."""
    if "://" in runs_dir:
        return Check("runs folder", "ok", f"{runs_dir} (remote, not tried)")
    folder = Path(runs_dir).expanduser().absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"quadriga")
    except OSError as error:
        why = error.strerror or str(error)
        return Check("runs folder", "missing", f"{folder}: {why}", "give a folder you may write to: --runs-dir DIR")
    return Check("runs folder", "ok", f"{folder} is writable")


def _gigabytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GB"


def is_healthy(checks: Sequence[Check]) -> bool:
    """Whether training can work: nothing required is missing."""
    return all(check.status != "missing" for check in checks)
