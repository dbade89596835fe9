"""Functions with docstrings out of Python files: what a model completes, and what it describes.

Chen et al. 2021, sections 4 and 5: signature and docstring -> body, and body -> docstring. By the
syntax tree, so that what is cut out is the file's own text. Pure functions.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from quadriga.codegen import docstrings
from quadriga.codegen.filters import parse
from quadriga.codegen.self_contained import StandardImports
from quadriga.codegen.source_lines import source_lines

MOST_CHARACTERS = 4000
LEAST_DOCSTRING = 12


class Function(NamedTuple):
    """A function or method.

    Attributes:
        name: with its class, `Stack.push`.
        prompt: signature and docstring, not indented.
        body: what follows, indented; `prompt + body` is Python.
        docstring: its text, without indentation.
        imports: lines that import what it needs of the standard library.
        outside: other names that it needs, of its file or of other packages, with a blank between them.
    """

    name: str
    prompt: str
    body: str
    docstring: str
    imports: str
    outside: str


def functions(text: str, tree: ast.Module) -> Iterator[Function]:
    """The functions and methods of a file that have a docstring and do something, in order.

    Args:
        text: of the file.
        tree: of the same text.
    """
    lines = source_lines(text)
    imports = StandardImports(tree)
    for owner, node in _definitions(tree, ""):
        first = node.body[0]
        docstring = ast.get_docstring(node, clean=False)
        if docstring is None or len(node.body) < 2 or len(docstring.strip()) < LEAST_DOCSTRING:
            continue
        follows = node.body[1]
        if follows.lineno <= (first.end_lineno or 0) or _is_stub(node.body[1:]):
            continue
        assert first.end_lineno is not None and node.end_lineno is not None
        start = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        head = "".join(lines[start - 1 : first.end_lineno])
        whole = textwrap.dedent("".join(lines[start - 1 : node.end_lineno]))
        prompt = whole[: _same_lines(whole, head.count("\n"))]
        body = whole[len(prompt) :]
        if len(whole) > MOST_CHARACTERS or not body.strip():
            continue
        if not body.endswith("\n"):
            body += "\n"
        if parse(prompt + body) is not None:
            needs = imports.needs(prompt + body, node.name)
            outside = " ".join(needs.outside)
            yield Function(f"{owner}{node.name}", prompt, body, docstrings.clean(docstring), needs.imports, outside)


def _definitions(tree: ast.AST, owner: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield owner, node
        elif isinstance(node, ast.ClassDef):
            yield from _definitions(node, f"{owner}{node.name}.")


def _is_stub(body: list[ast.stmt]) -> bool:
    """Whether there is nothing to learn: `pass`, `...`, `raise NotImplementedError`."""
    return all(
        isinstance(node, ast.Pass | ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in body
    )


def _same_lines(text: str, count: int) -> int:
    place = 0
    for _ in range(count):
        place = text.index("\n", place) + 1
    return place
