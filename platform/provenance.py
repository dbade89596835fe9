"""Where a run comes from: code, packages, hardware, seed and command, as plain JSON data.

Nothing that names the machine or its user is recorded, beyond what the command itself says.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    "ray",
    "torch",
    "numpy",
    "scipy",
    "gymnasium",
    "mujoco",
    "safety-gymnasium",
    "pyarrow",
    "pydantic",
    "transformers",
)
CHECKOUT = Path(__file__).resolve().parents[1]
GIT_TIMEOUT_S = 10.0
SHIPPED = "source.json"
"""In the package of a submitted job: the git state of the checkout that it was submitted from."""


def collect(seed: int, argv: Sequence[str]) -> dict[str, Any]:
    """What `provenance.json` holds.

    Args:
        seed: the experiment's.
        argv: the command as it was given, program first.

    Returns:
        JSON data: `version`, `git` (`{"commit", "dirty"}`, or null if the package runs from no
        checkout), `python`, `packages` (installed ones of `PACKAGES`, by name), `hardware`
        (`cpu`, `cores`, `usable_cores`, `memory_bytes`, `gpus`), `system`, `time_utc`, `seed`, `argv`.
    """
    return {
        "version": package_version("quadriga"),
        "git": git_state(CHECKOUT) or _shipped_state(CHECKOUT),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := package_version(name)) is not None},
        "hardware": hardware(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "time_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "argv": list(argv),
    }


def package_version(name: str) -> str | None:
    """The installed version of a distribution, `None` if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and dirtiness of the checkout whose root is `folder`; `None` if it is none or git cannot say.

    `dirty` counts tracked files that changed and files that git neither tracks nor ignores.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    # An installed package may lie in a virtual environment inside somebody else's checkout.
    if top is None or Path(top).resolve() != folder.resolve():
        return None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _shipped_state(package: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] | None = json.loads((package / SHIPPED).read_text(encoding="utf-8"))
        return state
    except (OSError, ValueError):
        return None


def hardware() -> dict[str, Any]:
    """CPU model, cores of the machine and of this process, memory, and the models of its GPUs."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    # A hook's GIT_DIR would make git answer for another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _gpus() -> list[str]:
    """From torch where it is loaded already, else from the driver's files: importing torch takes seconds."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = []
    for card in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            lines = card.read_text().splitlines()
        except OSError:
            continue
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    return found
