"""Docstrings that a model wrote become problems, which ask for the same in other words."""

import json

import pytest
import small_language_models

from quadriga.codegen import described, docstrings
from quadriga.codegen.problems import Problem, problems
from quadriga.platform.cli import run
from quadriga.platform.errors import UserError


def test_a_docstring_takes_the_place_of_another():
    prompt = 'import os\n\n\ndef f(x):\n    """Twice.\n\n    >>> f(1)\n    2\n    """\n'
    made = docstrings.replaced(prompt, "f", "Doubles it.\n\nFor numbers:\n  all.\n")
    assert made == 'import os\n\n\ndef f(x):\n    """\n    Doubles it.\n\n    For numbers:\n      all.\n    """\n'
    assert docstrings.replaced("def f(x):\n", "f", "Doubles it.") == 'def f(x):\n    """\n    Doubles it.\n    """\n'
    with pytest.raises(KeyError):
        docstrings.replaced(prompt, "g", "")
    with pytest.raises(SyntaxError):
        docstrings.replaced(prompt, "f", "\\N{no such name}")


def test_a_described_problem_has_the_tests_and_the_solution_of_its_own(builtin, tmp_path):
    asked = described.to_describe(builtin)
    assert asked.keys() == builtin.keys()
    for task, each in asked.items():
        docstring, _ = docstrings.split(builtin[task].prompt + "    pass\n", each.entry_point)
        assert docstring.strip() and docstring.strip() not in each.prompt
        assert each.prompt.endswith(docstrings.HEAD) and builtin[task].canonical.strip() in each.prompt
    rows = described.described(builtin, ((task, n, f"Text {n}.") for task in builtin for n in range(2)))
    path = tmp_path / "described.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = problems(path)
    assert len(found) == 2 * len(builtin)
    for task, problem in builtin.items():
        other = found[f"{task}/1"]
        assert other.tests == problem.tests and other.final == problem.final and other.canonical == problem.canonical
        assert "Text 1." in other.prompt
        compile(other.with_tests(other.canonical), task, "exec")


def test_what_cannot_be_described_is_said(builtin):
    with pytest.raises(UserError, match="'A/0' has no solution behind a prompt"):
        described.to_describe({"A/0": Problem("A/0", "def f():\n", "f", "", "", "")})
    with pytest.raises(UserError, match="'A/0': its solution is no function g"):
        described.to_describe({"A/0": Problem("A/0", "def f():\n", "g", "    pass\n", "", "")})


def test_describe_writes_problems_that_can_be_evaluated(tmp_path, capsys):
    model = small_language_models.save(tmp_path / "model", max_position_embeddings=2048)
    out = tmp_path / "described.jsonl"
    words = [
        "code",
        "describe",
        "--model",
        str(model),
        "--problems",
        "builtin",
        "--max-new-tokens",
        "6",
        "-o",
        str(out),
    ]
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["docstrings"] == len(problems(out)) == len(problems("builtin"))
    before = out.read_bytes()
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 0 and out.read_bytes() == before
    settings = json.loads((tmp_path / "described.docstrings.settings.json").read_text())
    assert settings["prompting"] == "docstring" and settings["stops"] == ['"""']
    assert run(["code", "describe", "--problems", "builtin", "-o", "x.txt"]) == 2
    assert "--out: expected a name that ends with .jsonl" in capsys.readouterr().err
