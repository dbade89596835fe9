"""What a function takes from outside itself: imports of the standard library, and everything else.

A problem's prompt is complete: the imports, then the function. One that calls its neighbours in a file is not,
and teaches a model to call what is not there. Pure functions on syntax trees.
"""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Iterator
from typing import NamedTuple

BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}


class Needs(NamedTuple):
    """What a function needs.

    Attributes:
        imports: lines that import what it uses of the standard library, as at the head of a problem; may be empty.
        outside: other names that it uses and does not bind, e.g. of its file or of another package, in order.
    """

    imports: str
    outside: tuple[str, ...]


class StandardImports:
    """The names that a file takes from the standard library at its top."""

    def __init__(self, tree: ast.Module) -> None:
        """Reads the imports outside of functions and classes."""
        self._modules: dict[str, str] = {}
        self._members: dict[str, tuple[str, str]] = {}
        for node in _at_the_top(tree.body):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if _standard(alias.name):
                        name = alias.asname or alias.name.split(".")[0]
                        self._modules[name] = alias.name + (f" as {alias.asname}" if alias.asname else "")
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module and _standard(node.module):
                for alias in node.names:
                    shown = alias.name + (f" as {alias.asname}" if alias.asname else "")
                    self._members[alias.asname or alias.name] = (node.module, shown)

    def needs(self, source: str, name: str) -> Needs:
        """What the function in `source` needs of this file.

        Args:
            source: the function alone, not indented.
            name: its name.

        Raises:
            SyntaxError: not Python.
        """
        free = sorted(free_names(source) - BUILTINS - {name})
        modules = sorted({self._modules[each] for each in free if each in self._modules})
        members: dict[str, list[str]] = {}
        for each in free:
            if each in self._members:
                module, shown = self._members[each]
                members.setdefault(module, []).append(shown)
        lines = [f"import {module}\n" for module in modules]
        lines += [f"from {module} import {', '.join(found)}\n" for module, found in sorted(members.items())]
        outside = tuple(each for each in free if each not in self._modules and each not in self._members)
        return Needs("".join(lines), outside)


def _at_the_top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the file does, those behind `if` and `try` among them."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _at_the_top(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from _at_the_top(node.body)


def _standard(module: str) -> bool:
    root = module.split(".")[0]
    return root in sys.stdlib_module_names and root != "__future__"


def free_names(source: str) -> set[str]:
    """Names that a function reads from its module: in its scopes, its decorators, defaults and annotations."""
    top = symtable.symtable(source, "<function>", "exec")
    found = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    scopes = list(top.get_children())
    while scopes:
        scope = scopes.pop()
        found.update(symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global())
        scopes.extend(scope.get_children())
    return found
