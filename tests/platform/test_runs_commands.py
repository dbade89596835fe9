"""`quadriga runs` and `quadriga show`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from quadriga.platform import cli, training
from quadriga.platform.evaluation import evaluate
from quadriga.platform.experiment import load
from quadriga.platform.lines import EvaluationRequest
from quadriga.platform.run_folder import RunFolder, list_runs

Train = Callable[..., RunFolder]
pytestmark = pytest.mark.usefixtures("walk_line")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def train() -> Train:
    """Trains the walking line in `runs`."""

    def run(preset: str = "walk", **fields: Any) -> RunFolder:
        return training.train(load(preset, {"steps": 4_000, **fields}), progress="quiet")

    return run


def invoke(*arguments: str, answer: str | None = None) -> str:
    result = CliRunner().invoke(cli.app, list(arguments), input=answer, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_runs_are_listed_with_what_they_are_and_where_they_stand(train: Train) -> None:
    train(name="first", seed=4)
    listed = invoke("runs").splitlines()
    assert listed[0].split() == ["run", "preset", "task", "seed", "steps", "state", "begun", "(UTC)", "newest"]
    assert listed[1].split()[:6] == ["first", "walk", "Bowl-v0", "4", "4,000", "done"]


def test_the_newest_metrics_are_those_of_the_last_row(train: Train) -> None:
    run = train(name="first")
    (found,) = objects(invoke("runs", "--json"))
    row = run.metrics.read().to_pylist()[-1]
    assert found["metrics"] == {name: row[name] for name in ("episode_return_mean", "episode_cost_mean")}
    assert (found["name"], found["step"], found["steps"], found["state"]) == ("first", 4_000, 4_000, "done")


def test_a_run_says_how_much_of_it_is_done(train: Train) -> None:
    run = train(name="half")
    run.write_text("experiment.yaml", load("walk", {"steps": 8_000, "name": "half"}).to_yaml())
    empty = RunFolder.create("runs", "empty")
    empty.write_text("experiment.yaml", load("walk").to_yaml())
    assert {each["name"]: each["state"] for each in objects(invoke("runs", "--json"))} == {
        "half": "50%",
        "empty": "empty",
    }


def test_runs_are_filtered_by_name_preset_task_and_state(train: Train) -> None:
    train(name="first")
    train("walk-fast", name="second")
    for text, names in {
        "fast": ["second"],
        "FIRST": ["first"],
        "bowl": ["first", "second"],
        "done": ["first", "second"],
    }.items():
        assert [each["name"] for each in objects(invoke("runs", "--filter", text, "--json"))] == names
    assert invoke("runs", "--filter", "nothing") == "no runs in 'runs' contain 'nothing'\n"


def test_no_runs_are_said_so() -> None:
    assert invoke("runs", "--runs-dir", "elsewhere") == "no runs in 'elsewhere'\n"
    assert invoke("runs", "--json") == ""


def test_a_damaged_run_hides_no_other(train: Train) -> None:
    train(name="good")
    broken = train(name="broken")
    broken.write_text("experiment.yaml", "preset: [")
    said = invoke("runs")
    assert "good" in said and "warning: broken: " in said


def test_comparison_shows_what_differs_and_nothing_else(train: Train) -> None:
    train(name="slow")
    train("walk-fast", name="fast", seed=2)
    found = json.loads(invoke("runs", "compare", "slow", "fast", "--json"))
    assert found["runs"] == ["slow", "fast"]
    assert found["fields"] == {"preset": ["walk", "walk-fast"], "seed": [0, 2], "learning_rate": [0.05, 0.5]}
    assert list(found["metrics"]) == ["episode_return_mean", "episode_cost_mean"]
    lines = invoke("runs", "compare", "slow", "fast").splitlines()
    assert lines[0].split() == ["slow", "fast"]
    assert ["learning_rate", "0.05", "0.5"] in [line.split() for line in lines]


def test_one_run_is_no_comparison(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    train(name="slow")
    assert cli.run(["runs", "compare", "slow"]) == 2
    assert "give two runs or more" in capfd.readouterr().err


def test_runs_are_removed_after_a_yes_and_kept_after_anything_else(train: Train) -> None:
    train(name="first")
    assert "kept: runs/first" in invoke("runs", "remove", "first", answer="\n")
    assert list_runs() == ["first"]
    said = invoke("runs", "remove", "first", answer="y\n")
    assert "delete runs/first (walk on Bowl-v0, 4,000 steps)?" in said
    assert list_runs() == []


def test_a_run_that_is_not_there_keeps_all_others(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    train(name="first")
    assert cli.run(["runs", "remove", "first", "frist", "--yes"]) == 2
    assert "did you mean 'first'?" in capfd.readouterr().err
    assert list_runs() == ["first"]
    invoke("runs", "remove", "first", "--yes")
    assert not Path("runs/first").exists()


def test_a_run_that_is_being_trained_is_kept(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    run = train(name="first")
    with run.writing():
        assert cli.run(["runs", "remove", "first", "--yes"]) == 2
        assert "run 'runs/first' is being trained by process" in capfd.readouterr().err
    assert RunFolder.open("first").metrics.read() == run.metrics.read()
    invoke("runs", "remove", "first", "--yes")
    assert list_runs() == []


def test_show_says_what_a_run_is_and_what_it_left(train: Train) -> None:
    run = train("walk-fast", name="mine", env={"dim": 5})
    evaluate(run, EvaluationRequest(episodes=4))
    found = json.loads(invoke("show", "mine", "--json"))
    assert found["changed"] == {"env.dim": {"preset": 3, "here": 5}}
    assert found["metrics"] == run.metrics.read().to_pylist()[-1]
    assert [each["step"] for each in found["checkpoints"]] == [each.step for each in run.checkpoints.list()]
    assert sum(each["best"] for each in found["checkpoints"]) == 1
    assert found["provenance"]["seed"] == 0
    assert found["evaluations"][0]["episodes"] == 4
    said = invoke("show", "mine")
    assert said.startswith("mine: walk-fast on Bowl-v0, seed 0\n")
    assert "env.dim  3       5" in said
    assert "latest, step 4,000, 4 samples" in said


def test_show_of_an_unchanged_preset_says_nothing_changed(train: Train) -> None:
    train(name="mine")
    assert "changed from the preset\nnothing\n" in invoke("show", "mine")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("quadriga show f", ["fast", "first"]),
        ("quadriga runs remove fi", ["first"]),
        ("quadriga report first fa", ["fast"]),
        ("quadriga train --resume fi", ["first"]),
        ("quadriga train walk-", ["walk-fast"]),
        ("quadriga train walk --env SafetyPointGoal1-v", ["SafetyPointGoal1-v0"]),
        ("quadriga sho", ["show"]),
    ],
)
def test_the_shell_completes_runs_presets_and_environments(train: Train, words: str, expected: list[str]) -> None:
    for name in ("first", "fast"):
        empty = RunFolder.create("runs", name)
        empty.write_text("experiment.yaml", load("walk").to_yaml())
    result = CliRunner().invoke(
        cli.app,
        prog_name="quadriga",
        env={
            "_QUADRIGA_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
    )
    assert sorted(line.strip() for line in result.output.splitlines() if line.strip()) == expected


def test_every_command_has_an_example_in_its_help() -> None:
    cli._plugins()
    root = typer.main.get_command(cli.app)
    missing = []
    for name, command in root.commands.items():
        for path, each in [
            (name, command),
            *((f"{name} {sub}", inner) for sub, inner in getattr(command, "commands", {}).items()),
        ]:
            if not hasattr(each, "commands") and f"quadriga {path}" not in (each.help or ""):
                missing.append(path)
    assert missing == []
