"""The command line: in process for what commands do, as a process for exit codes and what lands where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from quadriga.platform import cli, lines
from quadriga.platform.options import parse_count
from quadriga.platform.run_folder import RunFolder

SCRIPT = Path(sys.executable).with_name("quadriga")


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def command(
    environment: dict[str, str], folder: Path, *arguments: str, program: Sequence[str] = (str(SCRIPT),)
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [("200000", 200_000), ("1_000_000", 1_000_000), ("1,000,000", 1_000_000), ("1e6", 10**6), ("1E+6", 10**6),
     ("1.5M", 1_500_000), ("300k", 300_000), ("2B", 2 * 10**9), ("0.5k", 500), (" 7 ", 7)],
)  # fmt: skip
def test_steps_are_read_as_people_write_them(text: str, number: int) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5", "k", "1e-3", "ten", "1e6x", "nan", "0.0001k", "1kk"])
def test_other_step_counts_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected a number such as"):
        parse_count(text)


def test_help_needs_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys; from quadriga.platform.cli import run; code = run(['train', '--help']);"
        "print(sorted({'ray', 'torch', 'gymnasium', 'matplotlib', 'pyarrow', 'numpy'} & set(sys.modules)), code)"
    )
    done = command(dict(os.environ), tmp_path, "-c", program, program=(sys.executable,))
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert "--env-runners" in done.stdout


def test_module_and_console_script_are_one_program(tmp_path: Path) -> None:
    environment = dict(os.environ)
    script = command(environment, tmp_path, "--version")
    module = command(environment, tmp_path, "--version", program=(sys.executable, "-m", "quadriga.platform.cli"))
    assert (script.returncode, script.stdout) == (module.returncode, module.stdout)
    assert script.stdout.startswith("quadriga 0.")


def test_no_command_prints_the_help(tmp_path: Path) -> None:
    done = command(dict(os.environ), tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("train", "evaluate", "plot", "list", "doctor"))


@pytest.mark.usefixtures("walk_line")
def test_flags_and_set_build_one_experiment(tmp_path: Path) -> None:
    invoke(
        "train", "walk", "--env", "Bowl-v0", "--steps", "2k", "--seed", "3", "--name", "mine", "--quiet",
        "--set", "learning_rate=1e-2", "--set", "env.dim=5", "--runs-dir", str(tmp_path),
    )  # fmt: skip
    experiment: Any = RunFolder.open("mine", str(tmp_path)).experiment()
    assert (experiment.steps, experiment.seed, experiment.learning_rate) == (2000, 3, 0.01)
    assert (experiment.env.id, experiment.env.dim) == ("Bowl-v0", 5)


@pytest.mark.usefixtures("walk_line")
def test_file_is_trained_and_flags_lie_on_top_of_it(tmp_path: Path) -> None:
    file = tmp_path / "walk.yaml"
    file.write_text("preset: walk-fast\nenv: Bowl-v0\nsteps: 3000\nseed: 5\n")
    invoke("train", str(file), "--steps", "1000", "--name", "mine", "--quiet", "--runs-dir", str(tmp_path / "runs"))
    experiment: Any = RunFolder.open("mine", str(tmp_path / "runs")).experiment()
    assert (experiment.steps, experiment.seed, experiment.learning_rate) == (1000, 5, 0.5)


@pytest.mark.usefixtures("walk_line")
def test_run_is_trained_resumed_evaluated_and_plotted(tmp_path: Path) -> None:
    where = ("--runs-dir", str(tmp_path))
    trained = invoke("train", "walk", "--steps", "20k", "--name", "mine", *where)
    assert f"quadriga evaluate {tmp_path}/mine" in trained
    resumed = invoke("train", "--resume", "mine", "--steps", "30k", *where)
    assert "env steps 20,000 to 30,000" in resumed
    said = invoke("evaluate", "mine", "--episodes", "5", *where)
    assert "mine: latest checkpoint (step 30,000), 5 episodes, deterministic, seed 0" in said
    assert [line.split()[0] for line in said.splitlines()[2:5]] == ["return", "cost", "length"]
    film = tmp_path / "film.gif"
    data = json.loads(
        invoke("evaluate", "mine", "--stochastic", "--checkpoint", "best", "--video", str(film), "--json", *where)
    )
    assert (data["deterministic"], data["checkpoint"], data["episodes"]) == (False, "best", 20)
    assert film.exists()
    assert f"plot: {tmp_path}/mine/plot.png" in invoke("plot", "mine", *where)
    assert (tmp_path / "mine" / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("walk_line")
def test_presets_are_listed_with_what_they_are_and_where_they_were_published() -> None:
    listed = invoke("list", "presets").splitlines()
    assert listed[0].split() == ["preset", "what", "it", "is", "published", "in"]
    assert "Robbins and Monro 1951" in listed[1]
    assert [line.split()[0] for line in listed[1:]] == ["walk", "walk-fast"]


@pytest.mark.usefixtures("walk_line")
def test_algorithms_are_listed_by_their_parts() -> None:
    assert invoke("list", "algorithms").splitlines()[1].split("  ")[:2] == ["update rule", "momentum"]


def test_environments_are_filtered_by_a_text() -> None:
    rows = [json.loads(line) for line in invoke("list", "environments", "--filter", "cartpole", "--json").splitlines()]
    assert "CartPole-v1" in [row["environment"] for row in rows]
    assert all("cartpole" in " ".join(row.values()).lower() for row in rows)


BAD = [
    (["train", "walk", "--env", "Bowl-v9"], "unknown environment 'Bowl-v9'; did you mean 'Bowl-v0'?"),
    (["train", "wlak"], "unknown preset 'wlak'; did you mean 'walk'?"),
    (["train", "walk", "--set", "learning_rat=1"], "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
    (["train", "walk", "--set", "learning_rate=high"], "learning_rate: expected"),
    (["train", "walk", "--set", "learning_rate=-1"], "learning_rate: expected greater than 0, got -1"),
    (["train", "walk", "--set", "learning_rate"], "expected key=value"),
    (["train", "walk", "--seed", "-1"], "seed: expected greater than or equal to 0, got -1"),
    (["train", "walk", "--steps", "soon"], "--steps"),
    (["train", "walk", "--stepz", "5"], "--stepz"),
    (["train", "walk", "--name", "a/b"], "name: "),
    (["train", "walk", "--json", "--quiet"], "--json and --quiet"),
    (["train", "missing.yaml"], "no experiment file 'missing.yaml'"),
    (["train"], "what is to be trained?"),
    (["train", "walk", "--resume", "x"], "takes only --steps, not 'walk'"),
    (["train", "--resume", "x", "--seed", "1", "--set", "a=1"], "takes only --steps, not --seed, --set"),
    (["train", "--resume", "nothing"], "no run 'nothing' in 'runs'"),
    (["evaluate", "nothing"], "no run 'nothing' in 'runs'"),
    (["plot", "nothing"], "no run 'nothing' in 'runs'"),
    (["list", "things"], "'algorithms', 'benchmarks', 'environments', 'presets'"),
    (["tarin"], "Did you mean 'train'?"),
    (["train", "walk", "--set", "faults.nan_at=1"], "training stopped after 0 env steps: the loss is NaN"),
    (["train", "walk", "--runs-dir", "/dev/null/runs"], "cannot make a run folder in '/dev/null/runs'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
@pytest.mark.usefixtures("walk_line")
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    said = capfd.readouterr().err
    assert said.startswith("quadriga: error: ")
    assert message in said
    assert said.count("\n") == 1


def test_error_reaches_the_shell_without_a_traceback_unless_debug_is_given(
    walk_package: dict[str, str], tmp_path: Path
) -> None:
    done = command(walk_package, tmp_path, "train", "walk", "--env", "Bowl-v9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "quadriga: error: unknown environment 'Bowl-v9'; did you mean 'Bowl-v0'?\n"
    for arguments in (["--debug", "train", "walk"], ["train", "walk", "--debug"]):
        done = command(walk_package, tmp_path, *arguments, "--env", "Bowl-v9")
        assert done.returncode == 2
        assert "Traceback" in done.stderr


def test_defect_keeps_its_traceback(walk_package: dict[str, str], tmp_path: Path) -> None:
    done = command(walk_package, tmp_path, "train", "walk", "--set", "faults.defect_at=2")
    assert done.returncode == 1
    assert "ZeroDivisionError: a defect" in done.stderr


def test_read_only_disk_is_a_clear_error(walk_package: dict[str, str], small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = command(walk_package, Path("/"), "train", "walk", "--runs-dir", str(small_disk))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"quadriga: error: cannot make a run folder in '{small_disk}': Read-only file system\n"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("walk_line")
def test_signal_saves_a_checkpoint_and_says_how_to_resume(
    walk_package: dict[str, str], tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    arguments = [str(SCRIPT), "train", "walk", "--steps", "1e12", "--name", "mine", "--json"]
    with subprocess.Popen(
        arguments, cwd=tmp_path, env=walk_package, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        assert training.stderr is not None
        seen = []
        for line in training.stdout:
            seen.append(json.loads(line))
            if seen[-1].get("iteration") == 3:
                training.send_signal(signum)
        said = training.stderr.read()
    assert training.returncode == code
    assert "resume: quadriga train --resume mine\n" in said
    checkpoint = RunFolder.open("mine", str(tmp_path / "runs")).checkpoints.latest()
    assert checkpoint is not None
    assert checkpoint.step == seen[-1]["env_steps"]
    total = checkpoint.step + 2000
    resumed = command(walk_package, tmp_path, "train", "--resume", "mine", "--steps", str(total), "--json")
    iterations = [row for row in map(json.loads, resumed.stdout.splitlines()) if row["event"] == "iteration"]
    assert [row["env_steps"] for row in iterations] == [total - 1000, total]


def test_warnings_go_to_stderr_and_not_between_the_json_lines(walk_package: dict[str, str], tmp_path: Path) -> None:
    command(walk_package, tmp_path, "train", "walk", "--steps", "20k", "--name", "mine", "--quiet")
    newest = max((tmp_path / "runs" / "mine" / "checkpoints").iterdir())
    os.truncate(newest / "arrays.npz", 10)
    done = command(walk_package, tmp_path, "train", "--resume", "mine", "--json")
    assert done.returncode == 0
    assert done.stderr.startswith("quadriga: warning: checkpoint ")
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()][-1] == "end"


def install(environment: dict[str, str], name: str, entry_points: str, **modules: str) -> dict[str, str]:
    """`environment` with one more package on its path."""
    site = Path(environment["PYTHONPATH"])
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text)
    return environment


def test_line_of_work_that_cannot_be_imported_leaves_the_others_alone(
    walk_package: dict[str, str], tmp_path: Path
) -> None:
    environment = install(
        walk_package, "broken", "[quadriga.lines]\nbroken = broken_line:LINE\n", broken_line="import nosuch"
    )
    listed = command(environment, tmp_path, "list", "presets")
    assert listed.returncode == 0
    assert "walk-fast" in listed.stdout
    reason = "the line of work 'broken' is off: package 'nosuch' is not installed: pip install nosuch\n"
    assert listed.stderr == f"quadriga: warning: {reason}"
    needed = command(environment, tmp_path, "train", "its-preset")
    assert needed.returncode == 2
    assert needed.stderr == f"quadriga: error: preset 'its-preset' not found; {reason}"
    assert command(environment, tmp_path, "train", "walk", "--steps", "1000", "--quiet").returncode == 0


def test_package_that_is_missing_when_training_begins_is_named(walk_package: dict[str, str], tmp_path: Path) -> None:
    line = (
        "import dataclasses, walk_line\n"
        "def make_trainer(experiment):\n    import nosuch.part\n"
        "LINE = dataclasses.replace(walk_line.LINE, make_trainer=make_trainer)"
    )
    (Path(walk_package["PYTHONPATH"]) / "lacking_line.py").write_text(line)
    entry = Path(walk_package["PYTHONPATH"], "walk-1.0.dist-info", "entry_points.txt")
    entry.write_text("[quadriga.lines]\nwalk = lacking_line:LINE\n")
    done = command(walk_package, tmp_path, "train", "walk", "--quiet")
    assert done.returncode == 2
    assert done.stderr == "quadriga: error: package 'nosuch' is not installed: pip install nosuch\n"


def test_other_packages_add_commands(walk_package: dict[str, str], tmp_path: Path) -> None:
    environment = install(
        walk_package,
        "more",
        "[quadriga.commands]\ngreet = greet:app\nsulk = sulk:app\n",
        greet="import typer\napp = typer.Typer()\n@app.command()\ndef world(name: str):\n    print('hello', name)\n"
        "@app.command()\ndef nobody():\n    pass\n",
        sulk="import nosuch",
    )
    assert command(environment, tmp_path, "greet", "world", "you").stdout == "hello you\n"
    broken = command(environment, tmp_path, "sulk", "now", "--hard")
    assert broken.returncode == 2
    assert (
        broken.stderr
        == "quadriga: error: the command 'sulk' is off: package 'nosuch' is not installed: pip install nosuch\n"
    )


def test_installed_lines_of_work_can_all_be_imported() -> None:
    lines.all_lines()
    assert dict(lines.broken_lines()) == {}
