"""What the doctor says of an installation."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from quadriga.platform import cli, doctor
from quadriga.platform.doctor import Check, Package, explain_import, is_healthy, matches
from quadriga.platform.errors import UserError


def test_report_covers_packages_machine_and_runs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "PROBES", {"torch device": doctor.PROBES["torch device"]})
    code = cli.run(["doctor", "--json", "--runs-dir", str(tmp_path / "a" / "b")])
    report = json.loads(capfd.readouterr().out)
    checks = {check["name"]: check for check in report["checks"]}
    wanted = {
        "python",
        "ray",
        "torch",
        "torch device",
        "gymnasium",
        "cores",
        "memory",
        "runs folder",
        "line of work rl",
    }
    assert wanted <= set(checks)
    assert code == (0 if report["healthy"] else 1)
    assert report["healthy"] == all(check["status"] != "missing" for check in report["checks"])
    assert all(check["fix"] for check in report["checks"] if check["status"] != "ok")
    assert checks["runs folder"]["status"] == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(doctor.PROBES))
def test_every_probe_is_a_program_and_names_a_package_it_needs(name: str) -> None:
    program, _ = doctor.PROBES[name]
    compile(program, name, "exec")
    assert doctor.NEEDS[name] in {package.distribution for package in doctor.PACKAGES}


def test_only_what_training_needs_makes_an_installation_ill() -> None:
    assert is_healthy(
        [Check("python", "ok", "3.11"), Check("video encoder", "warning", "not installed", "pip install")]
    )
    assert not is_healthy([Check("python", "ok", "3.11"), Check("ray", "missing", "not installed", "pip install")])


def test_package_that_is_not_installed_is_reported_with_the_command_that_installs_it() -> None:
    needed = doctor._package(Package("nosuch", "nosuch", "1.0", "miracles"))
    assert (needed.status, needed.found, needed.fix) == (
        "missing",
        "not installed",
        "for miracles: pip install 'nosuch==1.0.*'",
    )
    assert doctor._package(Package("nosuch", "nosuch", "1.0", "miracles", required=False)).status == "warning"


def test_untested_version_is_a_warning() -> None:
    found = doctor._package(Package("pytest", "pytest", "1.0", "tests"))
    assert found.status == "warning"
    assert "tested with 1.0" in found.fix


@pytest.mark.parametrize(
    ("found", "tested", "same"),
    [("2.60.1", "2.60", True), ("2.60", "2.60", True), ("2.6", "2.60", False), ("2.60.1", "2.6", False),
     ("26.0", "26", True)],
)  # fmt: skip
def test_versions_are_compared_by_their_series(found: str, tested: str, same: bool) -> None:
    assert matches(found, tested) is same


def test_probe_that_fails_is_reported_by_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.PROBES, "miracle", ("raise OSError('libmiracle.so: not found')", "install it"))
    assert doctor._probe("miracle") == Check("miracle", "warning", "OSError: libmiracle.so: not found", "install it")


def test_runs_folder_that_cannot_be_written_is_reported(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    check = doctor._writable(str(small_disk / "new" / "runs"))
    assert check.status == "missing"
    assert check.found == f"{small_disk}: Read-only file system"
    assert os.listdir(small_disk) == []


def test_missing_packages_are_explained() -> None:
    assert explain_import(ModuleNotFoundError("No module", name="nosuch.part")) == (
        "package 'nosuch' is not installed: pip install nosuch"
    )
    assert "module 'quadriga.nosuch' is missing" in explain_import(ModuleNotFoundError("", name="quadriga.nosuch"))
    assert "is the version of ray right?" in explain_import(ModuleNotFoundError("No module", name="ray.nosuch"))
    assert explain_import(OSError("libcudart.so: not found")) == "OSError: libcudart.so: not found"
    assert explain_import(UserError("no\nway")) == "UserError: no way"


def test_known_package_that_is_missing_is_installed_in_its_tested_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.provenance, "package_version", lambda name: None)
    assert explain_import(ModuleNotFoundError("", name="torch")) == (
        "package 'torch' is not installed: pip install 'torch==2.13.*'"
    )
