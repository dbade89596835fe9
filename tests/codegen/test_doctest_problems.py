"""Self-contained functions, and problems made of the calls that their docstrings show."""

import json

import pytest

from quadriga.codegen import corpus, doctest_problems, training_data
from quadriga.codegen.experiment import CodeExperiment
from quadriga.codegen.filters import parse
from quadriga.codegen.functions import functions
from quadriga.codegen.pool import LocalPool
from quadriga.codegen.problems import problems
from quadriga.codegen.sandbox.limits import Limits
from quadriga.codegen.self_contained import StandardImports
from quadriga.platform.cli import run

SOURCE = '''"""Numbers."""
import math
import os.path as paths
from collections import Counter, deque as queue
from typing import List

import numpy as np

try:
    import zlib
except ImportError:
    zlib = None

LIMIT = 3


def root(number: float) -> List[float]:
    """Both square roots.

    >>> root(9)
    [3.0, -3.0]
    >>> root(LIMIT)
    []
    """
    found = math.sqrt(number)
    return [found, -found]


def wrong(number):
    """Claims what it does not do.

    >>> wrong(1)
    2
    """
    number += 0
    return number


def nothing(number):
    """Does what a function that is empty does.

    >>> nothing(1) is None
    True
    """
    number += 0
    return None


def limited(number):
    """Uses what stands beside it.

    >>> limited(5)
    3
    """
    number += 0
    return min(number, LIMIT)


class Pair:
    def first(self):
        """The first one of both.

        >>> first(1)
        1
        """
        one = self.one
        return one
'''
NAMES = """
def f(a: Counter, *rest, key=queue):
    size = len(rest)
    def inner(b):
        global outer
        return np.sum(b) + size + LIMIT + zlib.crc32(b) + outer
    return [inner(each) + paths.sep for each in a if __name__]
"""


@pytest.fixture
def learned(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "numbers.py").write_text(SOURCE)
    out = tmp_path / "corpus"
    corpus.build(corpus.Settings((str(source),), near=2, against=()), out)
    return out


def test_what_a_function_needs_is_told_apart():
    needs = StandardImports(parse(SOURCE)).needs(NAMES, "f")
    assert needs.imports == "import os.path as paths\nimport zlib\nfrom collections import Counter, deque as queue\n"
    assert needs.outside == ("LIMIT", "np", "outer")


def test_imports_and_function_are_a_program():
    for function in functions(SOURCE, parse(SOURCE)):
        if not function.outside and "." not in function.name:
            space = {}
            exec(function.imports + function.prompt + function.body, space)
            assert callable(space[function.name])


def test_examples_that_hold_become_problems(learned, tmp_path, capsys):
    out = tmp_path / "problems.jsonl"
    assert run(["code", "corpus", "problems", str(learned), "-o", str(out), "--timeout", "30", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "3 of 5 functions" in said and "(1;" in said
    (problem,) = problems(out).values()
    assert problem.entry_point == "root"
    assert problem.prompt.startswith("import math\nfrom typing import List\n\n\ndef root(")
    assert problem.tests == "def check(candidate):\n    assert candidate(9) == [3.0, -3.0]\n"
    data = {"form": "solutions", "problems": str(out)}
    settings = CodeExperiment(preset="codex-s", steps=1, data=data).data
    (document,) = training_data.documents(settings)
    assert document.prompt + document.target == problem.prompt + problem.canonical
    assert not document.prompt.endswith("\n")
    settings = CodeExperiment(preset="codex-s", steps=1, data={**data, "min_body_lines": 3}).data
    assert not list(training_data.documents(settings))


@pytest.mark.parametrize("space", ["  ", "    ", "\t"])
def test_a_problem_that_a_function_that_does_nothing_solves_is_left_out_whatever_its_indentation(space):
    prompt = f'def f(n):\n{space}"""Gives nothing.\n\n{space}>>> f(1) is None\n{space}True\n{space}"""\n'
    row = {"task_id": "A/0", "prompt": prompt, "entry_point": "f", "canonical_solution": f"{space}return None\n"}
    useful = {**row, "task_id": "A/1", "canonical_solution": f"{space}return n\n"}
    tests = [{"test": f"def check(f):\n    assert f(1) {wanted}\n"} for wanted in ("is None", "== 1")]
    limits = Limits(wall_s=30)
    pool = LocalPool(1, limits)
    try:
        kept = list(doctest_problems.verified([row | tests[0], useful | tests[1]], pool, limits))
    finally:
        pool.close()
    assert [each["task_id"] for each in kept] == ["A/1"]


def test_functions_can_be_chosen_by_what_they_need_and_by_their_length(learned):
    def chosen(**data):
        fields = {"corpus": str(learned), "form": "functions", "standalone": True, **data}
        return list(training_data.documents(CodeExperiment(preset="codex-functions", steps=1, data=fields).data))

    assert len(chosen()) == 4
    first, *_ = found = chosen(self_contained=True)
    assert len(found) == 3 and first.prompt.startswith("import math\n")
    assert not chosen(min_body_lines=3) and not chosen(max_body_lines=1)
    assert len(chosen(min_body_lines=2, max_body_lines=2)) == 4


def test_only_literals_and_single_expressions_are_tests():
    docstring = "\n".join(
        [
            ">>> x = f(1)",
            ">>> f(x)",
            "1",
            ">>> f(2)",
            "<object at 0x1>",
            ">>> print(3)",
            "3",
            ">>> sorted(f(n) for n in range(2))",
            "[0, 1]",
            ">>> f('f')",
            "'f'",
        ]
    )
    row = {"package": "p", "name": "f", "prompt": "", "body": "", "docstring": docstring, "imports": "", "outside": ""}
    found = list(doctest_problems.problems([row, row]))
    assert [each["task_id"] for each in found] == ["p/f", "p/f'"]
    lines = found[0]["test"].splitlines()[1:]
    assert lines == [
        "    assert sorted((candidate(n) for n in range(2))) == [0, 1]",
        "    assert candidate('f') == 'f'",
    ]


def test_what_is_wrong_is_said(learned, tmp_path, capsys):
    old = tmp_path / "old"
    old.mkdir()
    kept = corpus.table(learned / corpus.FUNCTIONS, ["package", "name", "prompt", "body", "docstring"])
    corpus.pq.write_table(kept, old / corpus.FUNCTIONS)
    bad = [
        (["corpus", "problems", str(old)], "has no column 'imports'"),
        (["corpus", "problems", "nowhere"], "make it: quadriga code corpus build"),
        (["corpus", "problems", str(learned), "-o", "problems.txt"], "ends with .jsonl"),
        (["finetune", "codex-s"], "data.problems: builtin is for evaluation"),
        (["finetune", "codex-s", "--problems", "humaneval"], "is for evaluation"),
        (["finetune", "codex-s", "--problems", "no.jsonl"], "make it: quadriga code corpus problems"),
    ]
    for words, complaint in bad:
        assert run(["code", *words]) == 2
        assert complaint in capsys.readouterr().err


def test_functions_are_kept_once_and_never_under_an_evaluated_name(tmp_path, builtin):
    source = tmp_path / "source"
    source.mkdir()
    name = next(iter(builtin.values())).entry_point
    text = 'def {}(a):\n    """Adds one to what is given."""\n    b = a + 1\n    return b\n\n\n'
    (source / "one.py").write_text("x = 1\n" + text.format("add") + text.format(name))
    (source / "two.py").write_text("y = 2\n" + text.format("plus").replace("b = a", "b  =  a"))
    report = corpus.build(corpus.Settings((str(source),), near=2), tmp_path / "corpus")
    assert report.functions == 1 and dict(report.left_out) == {"evaluated-name": 1, "duplicate": 1}
    assert json.loads((tmp_path / "corpus" / corpus.REPORT).read_text())["left_out"] == dict(report.left_out)
