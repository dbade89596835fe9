"""How a problem becomes a prompt, and where its completion ends: text only, no model.

After Chen et al. 2021, section 2 and 3.3: a completion ends before the first line that begins
another definition or statement at the top level, `"\\nclass"`, `"\\ndef"`, `"\\n#"`, `"\\nif"` or
`"\\nprint"`.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from quadriga.codegen.filters import parse
from quadriga.codegen.problems import Problem
from quadriga.codegen.source_lines import source_lines
from quadriga.platform.errors import UserError

PAPER_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
USUAL_INDENTATION = "    "


def stop_sequences(text: str | None) -> tuple[str, ...]:
    """Stop sequences as they are given on the command line: separated by commas, `\\n` for a line break.

    Raises:
        UserError: an empty one.
    """
    if text is None:
        return PAPER_STOPS
    found = tuple(part.replace("\\n", "\n").replace("\\t", "\t") for part in text.split(","))
    if not all(found):
        raise UserError(f"--stop: expected sequences such as '\\ndef,\\nclass', got {text!r}")
    return found


def completion_prompt(problem: Problem) -> str:
    """What the model continues: the prompt without white space at its end.

    A tokenizer joins a line break with the indentation behind it; a prompt that ends with the break alone asks for
    a continuation that the model has never seen.
    """
    return problem.prompt.rstrip()


def completion(problem: Problem, generated: str) -> str:
    """What stands behind the whole prompt, from what the model wrote behind `completion_prompt`."""
    return generated.removeprefix(problem.prompt[len(completion_prompt(problem)) :])


def indentation(prompt: str) -> str:
    """The white space before the statements of the function that a prompt ends with.

    That before its docstring; four spaces if it has none, for then nothing shows it.
    """
    tree = parse(prompt)
    if tree is None or not tree.body:
        return USUAL_INDENTATION
    last = tree.body[-1]
    while isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        last = last.body[-1]
    before = source_lines(prompt)[last.lineno - 1][: last.col_offset]
    return before if before.isspace() else USUAL_INDENTATION


def nothing(prompt: str) -> str:
    """A completion of a prompt's function that does nothing."""
    return f"\n{indentation(prompt)}pass\n"


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the first stop sequence, and whether there is one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
