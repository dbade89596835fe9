"""Quadriga from Python, and the page about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quadriga.platform.api import Experiment, list_runs, load_run, train
from quadriga.platform.errors import UserError
from quadriga.platform.experiment import load

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("walk_line")
def test_a_run_is_trained_from_a_preset_a_file_or_an_experiment() -> None:
    Path("mine.yaml").write_text("preset: walk-fast\nsteps: 2000\n")
    fields = {"env": {"dim": 5}, "seed": 3, "progress": "quiet"}
    runs = [train(source, **fields) for source in ("walk-fast", "mine.yaml", load("walk-fast", {"steps": 2000}))]
    assert [run.experiment.steps for run in runs] == [20_000, 2000, 2000]
    assert all(run.experiment.env.dim == 5 and run.experiment.seed == 3 for run in runs)  # type: ignore[attr-defined]
    assert all(isinstance(run.experiment, Experiment) for run in runs)


@pytest.mark.usefixtures("walk_line")
def test_a_field_that_does_not_exist_is_named_before_anything_is_written() -> None:
    with pytest.raises(UserError, match=r"unknown key 'learning_rat'; did you mean 'learning_rate'\?"):
        train("walk", learning_rat=1)
    assert not Path("runs").exists()


@pytest.mark.usefixtures("walk_line")
def test_a_run_is_loaded_with_its_numbers_as_a_table() -> None:
    trained = train("walk", steps=3000, name="mine", progress="quiet")
    for run in (load_run("mine"), load_run(trained.path), list_runs()[0]):
        assert run.metrics.column("env_steps").to_pylist() == [1000, 2000, 3000]
        assert run.summary.state == "done"
    frame = pytest.importorskip("pandas") and load_run("mine").metrics.to_pandas()
    assert list(frame["env_steps"]) == [1000, 2000, 3000]


@pytest.mark.usefixtures("walk_line")
def test_a_run_is_evaluated_continued_and_reported() -> None:
    run = train("walk", steps=2000, name="mine", progress="quiet")
    result = run.evaluate(episodes=3, checkpoint="best")
    assert len(result.samples["return"]) == 3 and len(run.evaluations) == 1
    again = run.resume(steps=4000, progress="quiet")
    assert again.metrics.num_rows == run.metrics.num_rows == 4
    assert run.report("new/page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.usefixtures("walk_line")
def test_a_line_without_policies_says_so() -> None:
    run = train("walk", steps=1000, name="mine", progress="quiet")
    with pytest.raises(UserError, match="the line of work 'walk' learned has no policy"):
        run.policy()
    with pytest.raises(UserError, match="cannot be exported"):
        run.export("policy.pt")
    with pytest.raises(UserError, match="checkpoint: expected latest or best, got 'newest'"):
        run.evaluate(checkpoint="newest")


def test_the_code_on_the_page_runs(root: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    blocks = BLOCK.findall((root / "docs" / "python-api.md").read_text(encoding="utf-8"))
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 6
    assert Path("runs/cartpole/evaluation.json").exists() and Path("report.html").exists()
    assert "torch.Size([8]) torch.int64" in capsys.readouterr().out
