"""`quadriga code sample` and `evaluate`: files, pictures and exit codes."""

import json

import pytest
import small_language_models

from quadriga.codegen import sweep
from quadriga.codegen.estimators import PassAtK
from quadriga.codegen.samples import count_python
from quadriga.codegen.sweep import Point
from quadriga.platform.cli import run
from quadriga.platform.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_language_models.save(tmp_path_factory.mktemp("model"), max_position_embeddings=2048)


@pytest.fixture
def problems(builtin, tmp_path):
    """Two of our own problems, and one that any completion solves."""
    path = tmp_path / "problems.jsonl"
    easy = {"task_id": "Easy/0", "prompt": "def f():\n", "entry_point": "g", "test": "def check(g):\n    pass\n"}
    easy["prompt"] = "def g():\n    return 1\n\n\n#"
    with path.open("w") as file:
        for problem in list(builtin.values())[:2]:
            row = {"task_id": problem.task_id, "prompt": problem.prompt, "entry_point": problem.entry_point}
            file.write(json.dumps({**row, "test": problem.tests}) + "\n")
        file.write(json.dumps(easy) + "\n")
    return path


def quadriga(*words):
    return run(["code", *map(str, words)])


def test_sample_writes_what_execute_takes(folder, problems, tmp_path, capsys):
    out = tmp_path / "s.jsonl"
    words = ["sample", "--model", folder, "--problems", problems, "-n", 2, "--max-new-tokens", 8, "-o", out]
    assert quadriga(*words) == 0
    said = capsys.readouterr().out
    assert "6 samples of 3 problems" in said and "%) are Python" in said
    assert quadriga("execute", out, "--problems", problems, "--k", 1, "--timeout", 30) == 0
    capsys.readouterr()
    assert quadriga(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["resumed"] == found["samples"] == 6 and found["tokens"] == 0 and found["max_new_tokens"] == 8


def test_samples_that_are_python_are_counted(builtin, tmp_path):
    path, task = tmp_path / "s.jsonl", next(iter(builtin))
    bodies = ["    return 1\n", "    return (\n", "    return 1\0\n", "(" * 1000, "    return 1\n\n\nclass"]
    rows = [{"task_id": task, "completion": body} for body in bodies] + [{"task_id": task, "solution": "x = 1\n"}]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert count_python(path, builtin) == 2


def test_evaluate_sweeps_temperatures_and_draws_them(folder, problems, tmp_path, capsys):
    out = tmp_path / "evaluation"
    words = ["evaluate", "--model", folder, "--problems", problems, "-n", 3, "--max-new-tokens", 6, "-o", out]
    options = ["--k", "1,2,100", "--stop", r"\n", "--timeout", 30]
    assert quadriga(*words, *options, "--temperatures", "0.8,0.2") == 0
    streams = capsys.readouterr()
    assert "k = 100 left out" in streams.err and "best for k = 2: temperature" in streams.out
    found = json.loads((out / sweep.SUMMARY).read_text())
    assert [row["temperature"] for row in found["temperatures"]] == [0.2, 0.8]
    assert set(found["temperatures"][0]["pass_at_k"]) == {"1", "2", "3"}
    assert 0 < found["temperatures"][0]["pass_at_k"]["1"] <= 1 and found["stops"] == ["\n"]
    assert (out / sweep.PICTURE).stat().st_size > 5000
    made = (out / "T0.2.jsonl").read_bytes()
    assert quadriga(*words, *options, "--temperatures", "0.2,0.8,1", "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert len(again["temperatures"]) == 3 and again["temperatures"][:2] == found["temperatures"]
    assert (out / "T0.2.jsonl").read_bytes() == made


def test_samples_that_were_not_judged_leave_a_gap_in_the_table_and_are_said(folder, problems, tmp_path, capsys):
    out = tmp_path / "evaluation"
    words = ["evaluate", "--model", folder, "--problems", problems, "-n", 2, "--max-new-tokens", 4, "-o", out]
    words += ["--k", "1,2", "--timeout", 30, "--temperatures", "0.2,0.8"]
    assert quadriga(*words) == 0
    results = out / "T0.8.results.jsonl"
    first, *others = [json.loads(line) for line in results.read_text().splitlines()]
    lost = {**first, "verdict": "infrastructure_error", "passed": False}
    results.write_text("".join(json.dumps(row) + "\n" for row in [lost, *others]))
    capsys.readouterr()
    assert quadriga(*words) == 0
    streams = capsys.readouterr()
    assert "k = 2 left out: more than the judged samples of some problem in T0.8.jsonl" in streams.err
    lines = streams.out.splitlines()
    assert lines[0].split() == ["temperature", "pass@1", "pass@2"]
    assert [line.count("[") for line in lines[1:3]] == [2, 1]
    samples = out / "T0.8.jsonl"
    assert quadriga("execute", samples, "--problems", problems, "--k", "1,2", "--timeout", 30) == 0
    streams = capsys.readouterr()
    assert "k = 2 left out: more than the judged samples of some problem" in streams.err
    assert "pass@1" in streams.out and "pass@2" not in streams.out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["sample", "--temperature", "-1"], "temperature: expected a number from 0 to 10, got -1.0"),
        (["sample", "--top-p", "2"], "top_p: expected a number above 0, at most 1, got 2.0"),
        (["sample", "-o", "s.txt"], "--out: expected a name that ends with .jsonl"),
        (["sample", "--engine", "tgi"], "--engine: expected quadriga or vllm, got 'tgi'"),
        (["sample", "--engine", "vllm", "--samplers", "2"], "leave --samplers out"),
        (["sample", "--dtype", "int3"], "--dtype: expected auto, float32, bfloat16, float16, got 'int3'"),
        (["sample", "--max-new-tokens", "4000"], "are more than the model's 2,048"),
        (["evaluate", "--temperatures", "hot"], "--temperatures: expected numbers such as 0.2,0.8, got 'hot'"),
        (["evaluate", "--temperatures", "0.2,0.20"], "is there twice"),
        (["evaluate", "--k", "0"], "--k: expected 1 or more, got 0"),
    ],
)
def test_a_wrong_option_is_one_line_and_writes_nothing(folder, tmp_path, monkeypatch, capsys, words, complaint):
    monkeypatch.chdir(tmp_path)
    assert quadriga(*words, "--model", folder, "--problems", "builtin") == 2
    streams = capsys.readouterr()
    assert complaint in streams.err and streams.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_best_temperature_of_each_k():
    def point(temperature, *values):
        return Point(temperature, {k: PassAtK(v, 0, 1, 9) for k, v in zip((1, 10), values, strict=True)}, 9)

    found = sweep.best([point(0.2, 0.3, 0.4), point(0.8, 0.2, 0.6), point(1.0, 0.3, 0.6)])
    assert {k: each.temperature for k, each in found.items()} == {1: 0.2, 10: 0.8}
    assert sweep.curve_ks(7) == (1, 2, 5, 7) and sweep.curve_ks(1) == (1,) and sweep.curve_ks(100)[-2:] == (50, 100)
    with pytest.raises(UserError, match="--temperatures"):
        sweep.temperatures("")
