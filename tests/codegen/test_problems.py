"""Problems are read from every format, and the tests of our own problems fail what is wrong."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from quadriga.codegen.pool import LocalPool
from quadriga.codegen.problems import HUMAN_EVAL_SHA256, problems, read_bytes
from quadriga.codegen.sandbox.limits import Limits
from quadriga.codegen.sandbox.supervisor import Job
from quadriga.platform.errors import UserError

MUTANTS = [json.loads(line) for line in (Path(__file__).parent / "mutants.jsonl").read_text().splitlines()]
MBPP = {
    "task_id": 11,
    "text": "Write a function to remove the first and last occurrence of a character.",
    "code": "def helper(s):\n    return s\ndef area(r):\n    return 3 * r * r\n",
    "test_setup_code": "import math",
    "test_list": [
        "assert math.isclose(area(2), 12)",
        'assert area(1) == 3, """one\n  line"""',
        "assert helper(1) == 1",
    ],
    "challenge_test_list": ["assert area(0) == 0"],
}


def verdicts(pairs):
    limits = Limits(wall_s=20)
    pool = LocalPool(2, limits)
    try:
        found = dict(pool.run(Job(n, problem, code, limits) for n, (problem, code) in enumerate(pairs)))
    finally:
        pool.close()
    return [found[n].kind for n in range(len(pairs))]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_human_eval_is_the_published_one(human_eval):
    assert len(human_eval) == 164
    assert list(human_eval)[:2] == ["HumanEval/0", "HumanEval/1"]


def test_an_altered_human_eval_is_refused(human_eval, tmp_path, monkeypatch):
    package = tmp_path / "human_eval"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data" / "HumanEval.jsonl.gz").write_bytes(gzip.compress(b'{"task_id": "HumanEval/0"}\n'))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "human_eval", raising=False)
    with pytest.raises(UserError, match="SHA-256 differs"):
        problems("humaneval")


def test_there_are_thirty_problems_of_our_own_with_a_wrong_solution_each(builtin):
    assert len(builtin) >= 30
    assert {row["task_id"] for row in MUTANTS} == set(builtin)


def test_our_own_tests_pass_what_is_right_and_fail_every_mutant(builtin):
    kinds = verdicts([(problem, problem.canonical) for problem in builtin.values()])
    assert set(kinds) == {"passed"}
    kinds = verdicts([(builtin[row["task_id"]], row["completion"]) for row in MUTANTS])
    assert [row for row, kind in zip(MUTANTS, kinds, strict=True) if kind != "failed"] == []


@pytest.mark.parametrize("packed", [False, True])
def test_files_in_human_eval_s_format_are_read_plain_and_packed(tmp_path, packed):
    row = {"task_id": "X/1", "prompt": "def f():\n", "entry_point": "f", "test": "def check(c): pass", "extra": 1}
    path = write(tmp_path / "p.jsonl", row)
    if packed:
        path = tmp_path / "p.jsonl.gz"
        path.write_bytes(gzip.compress((json.dumps(row) + "\n\n").encode()))
    (problem,) = problems(path).values()
    assert (problem.task_id, problem.final, problem.canonical) == ("X/1", "check(f)", "")


def test_mbpp_s_format_is_read_and_judged(tmp_path):
    (problem,) = problems(write(tmp_path / "mbpp.jsonl", MBPP)).values()
    assert (problem.task_id, problem.names) == ("Mbpp/11", ("area", "helper"))
    right = problem.canonical
    wrong = right.replace("3 *", "4 *")
    lacking = "def area(r):\n    return 3 * r * r\n"
    assert verdicts([(problem, right), (problem, wrong), (problem, lacking)]) == ["passed", "failed", "failed"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}\n", "line 1: task_id: expected text, got NoneType"),
        ("\n{nonsense\n", "line 2: not JSON"),
        ("[1]\n", "line 1: expected an object, got list"),
        ("", "holds no problem"),
        ('{"task_id": "a", "prompt": "", "entry_point": "1x", "test": ""}', "entry_point: expected a name, got '1x'"),
        (
            '{"task_id": 1, "code": "def f(): pass", "test_list": ["assert g()"]}',
            "call no function that `code` defines",
        ),
        ('{"task_id": 1, "code": "def f(:", "test_list": ["assert f()"]}', "line 1: not Python"),
    ],
)
def test_a_bad_file_of_problems_is_named_with_its_line(tmp_path, text, complaint):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(UserError, match=complaint.replace("(", r"\(")):
        problems(tmp_path / "p.jsonl")


def test_a_task_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="line 2: task_id 'Mbpp/11' for the second time"):
        problems(write(tmp_path / "p.jsonl", MBPP, MBPP))


def test_a_file_that_is_not_there_says_what_is_allowed():
    with pytest.raises(UserError, match="expected humaneval, builtin or a file"):
        problems("humanevil")


def test_the_checksum_is_that_of_the_unpacked_data(human_eval):
    import human_eval as package

    data = read_bytes(Path(package.__file__).parent / "data" / "HumanEval.jsonl.gz")
    assert hashlib.sha256(data).hexdigest() == HUMAN_EVAL_SHA256
