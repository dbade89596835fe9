"""Scores of texts behind texts are the model's, whatever the batch; each is computed once."""

import pytest
import small_language_models
import torch

from quadriga.codegen import agreement, back_translation, docstrings, engines, models, prompts, scoring
from quadriga.codegen.problems import Problem
from quadriga.codegen.samples import Sample
from quadriga.platform.errors import UserError

PAIRS = [("def f(x):\n", "    return x\n"), ("a", "b"), ("class A:\n    pass\n" * 20, "import os\n" * 3), ("x = ", "1")]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = small_language_models.save(tmp_path_factory.mktemp("model"))
    return engines.Setup(models.find(str(folder))).load()


def test_log_probabilities_do_not_depend_on_the_batch(loaded):
    together = scoring.logprobs(loaded, PAIRS)
    for (before, scored), found in zip(PAIRS, together, strict=True):
        head, tail = (loaded.tokenizer(text).input_ids for text in (before, scored))
        with torch.no_grad():
            logits = loaded.model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        expected = sum(logits[len(head) - 1 + n, token].item() for n, token in enumerate(tail))
        assert found == pytest.approx(expected, abs=1e-3)


def test_a_long_text_loses_its_beginning_and_a_too_long_one_is_refused(loaded):
    (found,) = scoring.logprobs(loaded, [("x = 1\n" * 2000, "y")])
    assert found < 0
    with pytest.raises(UserError, match="longer than the model's context"):
        scoring.logprobs(loaded, [("x", "x = 1\n" * 2000)])


def test_a_docstring_is_taken_out_of_its_function():
    source = 'import os\n\n\ndef f(x):\n    """Twice."""\n    return 2 * x\n'
    assert docstrings.split(source, "f") == ("Twice.", "import os\n\n\ndef f(x):\n    return 2 * x\n")
    assert docstrings.split('def f(x):\n    """Only."""\n', "f") == ("Only.", "def f(x):\n    pass\n")
    assert docstrings.split("def f(x):\n    return x\n", "f") == ("", "def f(x):\n    return x\n")
    with pytest.raises(KeyError):
        docstrings.split(source, "g")


@pytest.mark.parametrize(
    ("prompt", "space"),
    [
        ('def f(x):\n    """Twice."""\n', "    "),
        ('import os\n\n\ndef f(x):\n  """Twice\n  it."""\n', "  "),
        ('def f(x):\n\t"""Twice."""\n', "\t"),
        ('class A:\n   def f(x):\n     """Twice."""\n', "     "),
        ('def f(x): """Twice."""\n', "    "),
        ("def f(x):\n", "    "),
        ("x = 1\n", "    "),
        ("", "    "),
    ],
)
def test_a_prompt_s_body_is_indented_as_its_docstring(prompt, space):
    assert prompts.indentation(prompt) == space


@pytest.mark.parametrize("space", ["  ", "\t"])
def test_prompts_of_any_indentation_are_understood(space):
    prompt = f'def f(x: int):\n{space}"""Twice what it is given."""\n'
    problem = Problem("A/0", prompt, "f", f"{space}return 2 * x\n", "", "")
    found = back_translation.pair(problem, Sample(0, "A/0", problem.canonical, False, {}))
    code = f"def f(x: int):\n{space}return 2 * x"
    assert found == (code + docstrings.HEAD, "Twice what it is given." + docstrings.TAIL)
    assert len(agreement.inputs(problem)) > 2
    made = docstrings.replaced(prompt, "f", "Doubles it.")
    assert made == f'def f(x: int):\n{space}"""\n{space}Doubles it.\n{space}"""\n'
    compile(made + problem.canonical, "f", "exec")


def test_each_score_is_computed_once_and_what_is_not_python_is_last(loaded, doubling, builtin, tmp_path):
    problem = builtin["Quadriga/0"]
    codes = [problem.canonical, "    )", "    return numbers\n", problem.canonical]
    work = [(problem, Sample(n, problem.task_id, code, False, {})) for n, code in enumerate(codes)]
    path = tmp_path / "scores.jsonl"
    first = back_translation.scores(work[:1], path, "m", lambda: loaded)
    found = back_translation.scores(work, path, "m", lambda: loaded)
    assert found[0] == found[3] == pytest.approx(first[0], abs=1e-3) and found[1] == float("-inf") < found[2]
    assert len(path.read_text().splitlines()) == 2
    assert back_translation.scores(work, path, "m", lambda: pytest.fail("all are known")) == found
    assert back_translation.pair(doubling, Sample(0, "Test/0", "    return x\n", False, {})) is None
