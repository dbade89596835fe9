"""Back-translation: how probable a docstring model finds the problem's own docstring behind a sample.

Chen et al. 2021, section 5. Scores are expensive, so each is written to a file beside the samples as
soon as it is known, under a key of model and texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quadriga.codegen import docstrings
from quadriga.codegen.json_lines import GrowingFile
from quadriga.codegen.problems import Problem, parse_object
from quadriga.codegen.prompts import nothing
from quadriga.codegen.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from quadriga.codegen.models import Loaded

LOWEST = float("-inf")


def pair(problem: Problem, sample: Sample) -> tuple[str, str] | None:
    """The sample's function without its docstring as a prompt, and the docstring; `None` if it is not Python."""
    try:
        asked, _ = docstrings.split(problem.prompt + nothing(problem.prompt), problem.entry_point)
        _, code = docstrings.split(problem.program(sample.code, whole=sample.whole), problem.entry_point)
    except (SyntaxError, KeyError, ValueError, RecursionError, MemoryError):
        return None
    return (docstrings.prompt(code), docstrings.target(asked)) if asked.strip() else None


def scores(
    work: Sequence[tuple[Problem, Sample]], path: Path, fingerprint: str, load: Callable[[], Loaded]
) -> list[float]:
    """Log-probability of each problem's docstring given the sample; minus infinity for what is not Python.

    Args:
        work: problems and samples.
        path: the file of scores that are known.
        fingerprint: of the model.
        load: loads the model, called only if a score is missing.

    Raises:
        UserError: the file is damaged or cannot be written.
    """
    pairs = [pair(problem, sample) for problem, sample in work]
    keys = [_key(fingerprint, each) if each else "" for each in pairs]
    file = GrowingFile(path)
    try:
        known = {}
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                row = parse_object(line, f"{path}, line {number}")
                known[row.get("key")] = float(row.get("score", LOWEST))
        left = {key: each for key, each in zip(keys, pairs, strict=True) if each and key not in known}
        if left:
            from quadriga.codegen.scoring import logprobs

            names = list(left)
            found = logprobs(
                load(), list(left.values()), lambda n, score: file.append([{"key": names[n], "score": score}])
            )
            known.update(zip(names, found, strict=True))
    finally:
        file.close()
    return [known[key] if key else LOWEST for key in keys]


def _key(fingerprint: str, texts: tuple[str, str]) -> str:
    joined = "\0".join((fingerprint, *texts)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=16).hexdigest()
