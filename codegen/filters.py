"""Which Python files are worth learning from. Pure functions on text.

Chen et al. 2021, section 3.1: files below 1 MB, without those that are likely generated, whose mean
line is longer than 100 characters, whose longest line is longer than 1000, or with few alphanumeric
characters. Further: what does not parse, and what would teach the answers of an evaluation.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import tokenize
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from quadriga.codegen.problems import Problem
from quadriga.platform.errors import UserError

GENERATED = re.compile(
    r"auto[- ]?generated|(?:automatically|machine) generated|generated (?:by|from|using)\b|do not (?:edit|modify)",
    re.IGNORECASE,
)
HEAD_LINES = 10
WORDS = re.compile(r"\w+")
MEANINGLESS = {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER}
LAYOUT = {tokenize.NEWLINE: "\n", tokenize.INDENT: "\n>", tokenize.DEDENT: "\n<"}
SPAN = 13
"""Words in a row that a file must not share with the text of a problem."""

REASONS = {
    "too-large": "larger than max_bytes",
    "not-text": "not UTF-8",
    "empty": "no code",
    "generated": "says at its head that it is generated",
    "mean-line": "mean line longer than max_mean_line",
    "long-line": "a line longer than max_line",
    "few-alphanumerics": "share of letters and digits below min_alphanumeric",
    "not-python": "does not parse",
    "licence": "its licence is not among those asked for",
    "contaminated": f"shares {SPAN} words in a row, or a solution, with a problem of the evaluation",
    "duplicate": "the same text as an earlier file, but for white space and comments",
    "near-duplicate": "nearly the same text as an earlier file",
}


@dataclass(frozen=True)
class Filters:
    """What a file has to be.

    Attributes:
        max_bytes: of a file.
        max_mean_line: characters.
        max_line: characters.
        min_alphanumeric: share of all characters.

    Raises:
        UserError: a value out of range.
    """

    max_bytes: int = 1_000_000
    max_mean_line: float = 100
    max_line: int = 1000
    min_alphanumeric: float = 0.25

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_mean_line", "max_line"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}: expected a number above 0, got {getattr(self, name)!r}")
        if not 0 <= self.min_alphanumeric <= 1:
            raise UserError(f"min_alphanumeric: expected a share from 0 to 1, got {self.min_alphanumeric!r}")


def why_not(data: bytes, filters: Filters) -> tuple[str | None, str]:
    """The first reason against a file, `None` if there is none, and its text."""
    if len(data) > filters.max_bytes:
        return "too-large", ""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return "not-text", ""
    lines = text.splitlines()
    if not text.strip():
        return "empty", text
    if GENERATED.search("\n".join(lines[:HEAD_LINES])):
        return "generated", text
    if max(map(len, lines)) > filters.max_line:
        return "long-line", text
    if sum(map(len, lines)) / len(lines) > filters.max_mean_line:
        return "mean-line", text
    if sum(char.isalnum() for char in text) < filters.min_alphanumeric * len(text):
        return "few-alphanumerics", text
    tree = parse(text)
    if tree is None:
        return "not-python", text
    if not tree.body or all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body):
        return "empty", text
    return None, text


def parse(text: str) -> ast.Module | None:
    """The syntax tree, `None` for what is not Python; old escapes are no reason to complain."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def names_licence(said: str, name: str) -> bool:
    """Whether what a package says of its licence has `name` as a word, with a version behind it or not.

    So GPL is in GPLv3 and not in AGPL, and MIT not in Limited.
    """
    return re.search(rf"(?<![^\W_]){re.escape(name)}(?=v?\d|[\W_]|$)", said, re.IGNORECASE) is not None


def normal_form(text: str) -> str:
    """The tokens that carry meaning: equal for texts that differ in comments and white space only.

    Args:
        text: a program, or the body of a function with its indentation; what is neither is taken as it is, but for
            white space.
    """
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return " ".join(text.split())
    return " ".join(LAYOUT.get(each.type, each.string) for each in tokens if each.type not in MEANINGLESS)


def exact_key(text: str) -> str:
    """Equal for exact duplicates."""
    return hashlib.blake2b(normal_form(text).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Contamination:
    """The texts of evaluation problems, and whether a file holds some of them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Takes prompts and canonical solutions; tests are in neither and cannot leak by themselves."""
        self._spans: set[int] = set()
        self._solutions: set[str] = set()
        self._names: set[str] = set()
        for problem in problems:
            self._spans.update(_spans(problem.prompt))
            whole = problem.program(problem.canonical)
            self._spans.update(_spans(whole))
            for function in _functions(whole):
                if function.name == problem.entry_point and len(function.body) > 0:
                    self._solutions.add(_shape(function))
                    self._names.add(function.name)

    def found(self, text: str, tree: ast.AST | None = None) -> bool:
        """Whether `text` shares words in a row with a problem, or holds a function that is its solution."""
        if not self._spans.isdisjoint(_spans(text)):
            return True
        functions = _functions(text) if tree is None else _functions_of(tree)
        return any(each.name in self._names and _shape(each) in self._solutions for each in functions)


def _spans(text: str) -> Iterable[int]:
    words = [word.lower() for word in WORDS.findall(text)]
    for start in range(len(words) - SPAN + 1):
        key = hashlib.blake2b(" ".join(words[start : start + SPAN]).encode(), digest_size=8).digest()
        yield int.from_bytes(key, "little")


def _functions(text: str) -> list[ast.FunctionDef]:
    tree = parse(text)
    return [] if tree is None else _functions_of(tree)


def _functions_of(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def _shape(function: ast.FunctionDef) -> str:
    """Name and body without docstring and annotations, as a syntax tree."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    arguments = [each.arg for each in function.args.posonlyargs + function.args.args]
    return f"{function.name}({arguments}): " + " ".join(ast.dump(node) for node in body)
