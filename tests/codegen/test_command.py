"""`quadriga code ...`: exit codes, what is printed, and one line for every mistake."""

import json

import pytest

from quadriga.codegen import check
from quadriga.codegen.command import default_out
from quadriga.codegen.sandbox.limits import Verdict
from quadriga.platform.cli import run


@pytest.fixture
def samples(tmp_path, builtin):
    path = tmp_path / "s.jsonl"
    with path.open("w") as file:
        for task, problem in builtin.items():
            for code in (problem.canonical, "    return None\n"):
                file.write(json.dumps({"task_id": task, "completion": code}) + "\n")
    return path


def quadriga(*arguments):
    return run(["code", *map(str, arguments)])


def test_execute_prints_pass_at_k_and_a_tally(samples, capsys):
    assert quadriga("execute", samples, "--problems", "builtin", "--timeout", 30, "--k", "1,2") == 0
    said = capsys.readouterr().out
    assert "64 samples of 32 problems" in said
    assert "pass@1      0.5000  [0.5000, 0.5000]" in said and "pass@2      1.0000" in said
    assert f"results: {samples.with_name('s.results.jsonl')}" in said


def test_execute_prints_one_json_object_and_writes_human_eval_s_format(samples, capsys):
    options = ["--problems", "builtin", "--timeout", 30, "--mode", "inproc", "--json", "--format", "human-eval"]
    assert quadriga("execute", samples, *options) == 0
    streams = capsys.readouterr()
    found = json.loads(streams.out)
    assert found["pass_at_k"] == {"1": 0.5} and found["samples"] == 64 and found["verdicts"]["failed"] == 32
    assert found["tier"] in ("namespaces", "landlock") and found["conditions"].startswith("inproc, ")
    assert "k = 10, 100 left out" in streams.err
    lines = samples.with_name("s.jsonl_results.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["passed"] for line in lines) == 32 == len(lines) // 2


def test_execute_runs_on_ray(samples, capsys, ray_session):
    assert (
        quadriga("execute", samples, "--problems", "builtin", "--timeout", 30, "--ray", "--workers", 2, "--json") == 0
    )
    assert json.loads(capsys.readouterr().out)["pass_at_k"] == {"1": 0.5}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--k", "one"], "--k: expected numbers such as 1,10,100, got 'one'"),
        (["--k", "0"], "--k: expected 1 or more, got 0"),
        (["--timeout", "0"], "limit wall_s: expected 0.01 or more, got 0.0"),
        (["--mode", "fork"], "--mode: expected split or inproc, got 'fork'"),
        (["--tier", "vm"], "--tier: expected auto, namespaces, landlock, got 'vm'"),
        (["--format", "csv"], "--format: expected quadriga or human-eval, got 'csv'"),
        (["--calibrate", "0.1"], "--calibrate: expected a number from 1 to 1000, got 0.1"),
        (["--problems", "nope.jsonl"], "--problems 'nope.jsonl': no such file"),
        (["--memory", "1"], "limit memory_bytes: expected 134,217,728 or more, got 1048576"),
    ],
)
def test_a_wrong_option_is_one_line_and_starts_nothing(samples, capsys, options, complaint):
    assert quadriga("execute", samples, "--problems", "builtin", *options) == 2
    streams = capsys.readouterr()
    assert complaint in streams.err and streams.err.count("\n") == 1 and streams.out == ""
    assert not default_out(samples).exists()


def test_results_go_beside_the_samples(tmp_path):
    assert default_out(tmp_path / "a.jsonl.gz").name == "a.results.jsonl"
    assert default_out(tmp_path / "folder").name == "folder.results.jsonl"


@pytest.mark.slow
def test_check_finds_the_sandbox_good(capsys):
    assert quadriga("check", "--problems", "builtin", "--timeout", 2, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["good"] is True and [part["wrong"] for part in found["checks"]] == [[], [], []]


def test_check_fails_where_a_claim_does_not_hold(capsys, monkeypatch):
    real = check._run

    def _first_passes(pool, pairs, limits):
        return [Verdict("passed"), *real(pool, pairs[1:], limits)][: len(pairs)]

    monkeypatch.setattr(check, "hostile_samples", list)
    monkeypatch.setattr(check, "_run", _first_passes)
    assert quadriga("check", "--problems", "builtin", "--timeout", 2) == 1
    said = capsys.readouterr().out
    assert "WRONG empty completions of builtin fail: 31/32" in said and "do not trust" in said
