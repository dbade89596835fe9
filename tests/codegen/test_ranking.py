"""Choosing one of n: exact curves equal brute force, and good rankings beat chance."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadriga.codegen import agreement, judged_samples, ranking
from quadriga.codegen.estimators import pass_at_k
from quadriga.codegen.pool import LocalPool
from quadriga.codegen.problems import Problem
from quadriga.codegen.ranking import Candidates
from quadriga.codegen.results import key
from quadriga.codegen.samples import read_samples
from quadriga.codegen.sandbox.limits import Limits
from quadriga.platform.cli import run
from quadriga.platform.errors import UserError

SAMPLES = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=7)


@given(samples=SAMPLES, data=st.data())
def test_the_chosen_one_is_right_as_often_as_over_all_subsets(samples, data):
    correct = np.array([each[0] for each in samples])
    scores = np.array([float(each[1]) for each in samples])
    k = data.draw(st.integers(1, len(samples)))
    shares = []
    for subset in itertools.combinations(range(len(samples)), k):
        best = max(scores[n] for n in subset)
        shares.append(np.mean([correct[n] for n in subset if scores[n] == best]))
    assert ranking.chosen_is_right(correct, scores, k) == pytest.approx(np.mean(shares))


@given(samples=SAMPLES, data=st.data())
def test_no_ranking_beats_the_oracle(samples, data):
    correct = np.array([each[0] for each in samples])
    scores = np.array([float(each[1]) for each in samples])
    k = data.draw(st.integers(1, len(samples)))
    one = Candidates(correct, {"mean-logprob": scores})
    oracle = ranking.value("oracle", one, k)
    assert oracle == pytest.approx(pass_at_k(len(samples), int(correct.sum()), k))
    assert ranking.value("mean-logprob", one, k) <= oracle + 1e-12
    assert ranking.value("mean-logprob", one, 1) == pytest.approx(ranking.value("random", one, 1))
    perfect = Candidates(correct, {"mean-logprob": correct.astype(float)})
    assert ranking.value("mean-logprob", perfect, k) == pytest.approx(oracle)


def test_agreement_prefers_what_most_samples_give():
    outputs = [["a", "b"], ["a", "b"], ["a", "x"], ["z", "y"], None]
    matrix = ranking.agreement_matrix(outputs)
    assert matrix[0].tolist() == [0, 1, 0.5, 0, 0]
    assert matrix[4].sum() == 0
    one = Candidates(np.array([True, True, False, False, False]), {}, matrix)
    assert ranking.value("agreement", one, 5) == 1
    assert ranking.value("agreement", one, 1) == pytest.approx(0.4, abs=0.1)
    assert ranking.value("random", one, 5) == pytest.approx(0.4)


def test_the_gain_is_paired():
    good = [Candidates(np.array([True, False]), {"mean-logprob": np.array([1.0, 0.0])}) for _ in range(10)]
    gain = ranking.gain("mean-logprob", good, 2)
    assert gain.estimate == gain.low == gain.high == 0.5


def test_inputs_are_examples_first_and_the_same_for_a_seed(builtin):
    problem = builtin["Quadriga/0"]
    made = agreement.inputs(problem)
    assert made[0] == ([1, 3, 2, 5],)
    assert len(made) == agreement.INPUTS == len({repr(each) for each in made})
    assert made == agreement.inputs(problem) != agreement.inputs(problem, seed=1)
    for each in builtin.values():
        assert len(agreement.inputs(each)) > 2, each.task_id


def test_inputs_come_from_annotations_where_there_is_no_example():
    prompt = "def f(a: list[int], b: dict[str, tuple[int, bool]], c: str | None, d):\n"
    for a, b, _, _ in agreement.inputs(Problem("T/1", prompt, "f", "", "", "")):
        assert all(isinstance(n, int) for n in a)
        assert all(isinstance(k, str) and isinstance(v[1], bool) for k, v in b.items())
    assert agreement.inputs(Problem("T/2", "", "f", "", "", "")) == []


def test_outputs_tell_samples_apart_and_survive_bad_ones(builtin):
    problem = builtin["Quadriga/0"]
    codes = [
        problem.canonical,
        "    return [max(numbers[: n + 1]) for n in range(len(numbers))]\n",
        "    return numbers\n",
        "    return no_such_name\n",
        "    while True:\n        pass\n",
        "    )",
    ]
    limits = Limits(wall_s=5, cpu_s=1)
    pool = LocalPool(1, limits)
    try:
        found = agreement.outputs(pool, [(problem, code, False) for code in codes], limits)
    finally:
        pool.close()
    assert found[0] is not None and found[0] == found[1] and len(found[0]) == agreement.INPUTS
    assert found[2] is not None and 0 < sum(a == b for a, b in zip(found[0], found[2], strict=True)) < agreement.INPUTS
    assert found[3] is not None and len(set(found[3])) == 1
    assert found[4] is None and found[5] is None


def test_no_sample_can_invent_outputs(builtin):
    problem = builtin["Quadriga/0"]
    hashes = " ".join(["00000000"] * agreement.INPUTS)
    codes = [
        problem.canonical,
        f"    return numbers\n\n\nraise AssertionError('outputs {hashes}')\n",
        "    return numbers\n\n\nraise AssertionError('outputs x')\n",
        "    return (lambda: None) if len(numbers) == 4 else numbers\n",
    ]
    limits = Limits(wall_s=30)
    pool = LocalPool(1, limits)
    try:
        found = agreement.outputs(pool, [(problem, code, False) for code in codes], limits)
    finally:
        pool.close()
    assert found[1] is None and found[2] is None
    assert [len(each) for each in found if each] == [agreement.INPUTS] * 2
    matrix = ranking.agreement_matrix(found)
    assert matrix[1].sum() == matrix[2].sum() == 0 < matrix[0, 3]


@pytest.fixture
def files(builtin, tmp_path):
    """Three problems, four samples each: the right ones most probable, and of one opinion."""
    known = dict(list(builtin.items())[:3])
    problems = tmp_path / "problems.jsonl"
    with problems.open("w") as file:
        for problem in known.values():
            row = {"task_id": problem.task_id, "prompt": problem.prompt, "entry_point": problem.entry_point}
            file.write(json.dumps({**row, "test": problem.tests, "canonical_solution": problem.canonical}) + "\n")
    samples = tmp_path / "s.jsonl"
    with samples.open("w") as file:
        for problem in known.values():
            bodies = [
                (problem.canonical, -1),
                (f"{problem.canonical}    # x\n", -2),
                ("    return 1\n", -8),
                ("    )", -9),
            ]
            for number, (code, logprob) in enumerate(bodies):
                row = {"task_id": problem.task_id, "sample": number, "completion": code}
                file.write(json.dumps({**row, "tokens": 10, "logprob": logprob, "end": "stop"}) + "\n")
    return problems, samples


def test_rank_says_what_each_ranking_gains_and_draws_it(files, capsys):
    problems, samples = files
    assert run(["code", "execute", str(samples), "--problems", str(problems), "--timeout", "30"]) == 0
    capsys.readouterr()
    assert run(["code", "rank", str(samples), "--problems", str(problems), "--timeout", "30", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["curves"]["random"]["4"] == 0.5
    for name in ("mean-logprob", "sum-logprob", "agreement", "oracle"):
        assert found["curves"][name]["4"] == 1, name
        assert found["against_random"][name] == [0.5, 0.5, 0.5]
    assert samples.with_name("s.ranking.png").stat().st_size > 5000
    assert run(["code", "rank", str(samples), "--problems", str(problems), "--by", "random,oracle"]) == 0
    assert "+0.5000 [+0.5000, +0.5000]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--by", "meanlogprob"], "unknown ranking 'meanlogprob'; did you mean 'mean-logprob'?"),
        (["--by", "back-translation"], "go together"),
        (["--docstring-model", "smollm2"], "go together"),
        ([], "no such file of results; make it: quadriga code execute"),
    ],
)
def test_rank_refuses_in_one_line(files, capsys, options, complaint):
    problems, samples = files
    assert run(["code", "rank", str(samples), "--problems", str(problems), *options]) == 2
    streams = capsys.readouterr()
    assert complaint in streams.err and streams.err.count("\n") == 1


def test_results_of_other_samples_are_refused(files, builtin, tmp_path):
    _, samples = files
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    listed = list(read_samples(samples, builtin))
    results = tmp_path / "r.jsonl"
    lines = [
        {"key": key(builtin[s.task_id], s, "c"), "conditions": "c", "verdict": "passed", "passed": True} for s in listed
    ]
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert sum(len(group) for group in judged_samples.read(samples, results, builtin).values()) == len(rows)
    results.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    with pytest.raises(UserError, match="the result of another sample"):
        judged_samples.read(samples, results, builtin)
    results.write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(UserError, match="ends before"):
        judged_samples.read(samples, results, builtin)
