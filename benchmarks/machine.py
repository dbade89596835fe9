"""Where and when something was measured, for the head of a result."""

from __future__ import annotations

import datetime
import os
from typing import Any

from quadriga.platform import provenance

PACKAGES = ("ray", "torch", "numpy", "gymnasium", "mujoco", "safety-gymnasium")


def describe() -> dict[str, Any]:
    """Date, commit, processor, cores, versions and the load of the machine now."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "git": provenance.git_state(provenance.CHECKOUT),
        "hardware": provenance.hardware(),
        "packages": {name: provenance.package_version(name) for name in PACKAGES},
        "load_average": list(os.getloadavg()),
    }


def sentence(machine: dict[str, Any]) -> str:
    """The same in a line of Markdown."""
    git, hardware = machine["git"], machine["hardware"]
    commit = "no commit" if git is None else git["commit"][:12] + (" with changes" if git["dirty"] else "")
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    load = f"{machine['load_average'][0]:.1f}"
    if "load_average_after" in machine:
        load += f" before, {machine['load_average_after'][0]:.1f} after"
    return (
        f"{machine['date']}, commit {commit}; {hardware['cpu']}, {hardware['usable_cores']} cores, "
        f"load average {load}; {versions}"
    )
