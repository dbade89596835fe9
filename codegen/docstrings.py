"""The text in which a model that writes docstrings sees code: one form for training, sampling and scoring.

Chen et al. 2021, section 5: a function's signature and body, then its docstring.
"""

from __future__ import annotations

import ast

from quadriga.codegen.prompts import indentation, nothing
from quadriga.codegen.source_lines import source_lines

HEAD = '\n\n# What the function above does:\n"""'
TAIL = '"""\n'


def prompt(code: str) -> str:
    """What stands before the docstring of `code`, a whole function."""
    return code.strip("\n") + HEAD


def target(docstring: str) -> str:
    """The docstring as the model is to write it, with its end."""
    return clean(docstring) + TAIL


def clean(docstring: str) -> str:
    """Without indentation and white space around it, and with nothing that would end it early."""
    import inspect

    return inspect.cleandoc(docstring).strip().replace('"""', "'''")


def split(source: str, name: str) -> tuple[str, str]:
    """A function's docstring, empty if there is none, and the whole program without it.

    Args:
        source: a program.
        name: of a function at its top level.

    Raises:
        SyntaxError: not Python.
        KeyError: there is no such function.
    """
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            docstring = ast.get_docstring(node, clean=False)
            if docstring is None:
                return "", source
            lines = source_lines(source)
            first = node.body[0]
            assert first.end_lineno is not None
            if first.lineno == node.lineno or (
                len(node.body) > 1 and node.body[1].lineno == first.end_lineno
            ):  # on a line with other code
                return docstring, source
            kept = lines[: first.lineno - 1] + lines[first.end_lineno :]
            if len(node.body) == 1:
                kept.insert(first.lineno - 1, " " * first.col_offset + "pass\n")
            return docstring, "".join(kept)
    raise KeyError(name)


def replaced(prompt: str, name: str, docstring: str) -> str:
    """A problem's prompt with another docstring.

    Args:
        prompt: up to the docstring of the function `name`, or to its signature if it has none.
        name: of the function.
        docstring: source text of the new one, as a model writes it.

    Raises:
        SyntaxError: the prompt is not Python, or with the new docstring it is not.
        KeyError: there is no such function.
    """
    space, whole = indentation(prompt), prompt.rstrip("\n") + nothing(prompt)
    node = next((each for each in ast.parse(whole).body if getattr(each, "name", None) == name), None)
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        raise KeyError(name)
    lines = source_lines(whole)[: node.body[0].lineno - 1]
    indented = "\n".join(f"{space}{line}" if line.strip() else "" for line in clean(docstring).splitlines())
    made = "".join(lines) + f'{space}"""\n{indented}\n{space}"""\n'
    ast.parse(made + nothing(made))
    return made
