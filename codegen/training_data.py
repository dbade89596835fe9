"""Documents of a corpus, or samples that passed, as examples of tokens; and which of them are for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from quadriga.codegen import corpus, docstrings, judged_samples
from quadriga.codegen.doctest_problems import whole_prompt
from quadriga.codegen.experiment import DataSettings
from quadriga.codegen.models import prompt_ids
from quadriga.codegen.packing import Example, Packed, chunks, pack
from quadriga.codegen.problems import problems
from quadriga.codegen.prompts import completion_prompt
from quadriga.platform.errors import UserError

FUNCTION_COLUMNS = ["prompt", "body", "name", "docstring"]
NEEDS_COLUMNS = ["imports", "outside"]


class Document(NamedTuple):
    """What is read, empty for plain text, and what is learned."""

    prompt: str
    target: str


class Data(NamedTuple):
    """Packed rows to learn from and to validate on."""

    train: Packed
    validation: Packed

    @property
    def left_out(self) -> tuple[int, int]:
        """How many examples were longer than a row, and of how many."""
        left_out = self.train.left_out + self.validation.left_out
        return left_out, left_out + self.train.examples + self.validation.examples


def source(settings: DataSettings) -> tuple[Path, list[str]]:
    """The file of a corpus that is read, and the columns that are needed of it."""
    assert settings.corpus is not None
    folder = Path(settings.corpus)
    if settings.form == "files":
        return folder / corpus.FILES, ["text"]
    return folder / corpus.FUNCTIONS, [*FUNCTION_COLUMNS, *(NEEDS_COLUMNS if settings.self_contained else [])]


def documents(settings: DataSettings) -> Iterator[Document]:
    """All documents, in order.

    Raises:
        UserError: a file is missing, damaged or empty.
    """
    if settings.form == "solutions":
        if settings.samples is None:
            yield from _references(settings)
        else:
            yield from _solutions(Path(settings.samples), settings.problems)
        return
    path, columns = source(settings)
    rows = corpus.table(path, columns).to_pylist()
    if settings.form == "files":
        yield from (Document("", row["text"]) for row in rows)
        return
    for row in rows:
        if not _wanted(row, settings):
            continue
        if settings.form == "functions":
            whole = whole_prompt(row) if settings.self_contained else row["prompt"]
            # As a problem's prompt is shown when it is sampled: without the white space at its end.
            prompt = whole.rstrip()
            yield Document(prompt, whole[len(prompt) :] + row["body"])
        else:
            _, code = docstrings.split(row["prompt"] + row["body"], row["name"].split(".")[-1])
            yield Document(docstrings.prompt(code), docstrings.target(row["docstring"]))


def _wanted(row: Mapping[str, str], settings: DataSettings) -> bool:
    if settings.standalone and "." in row["name"]:
        return False
    if settings.examples and ">>>" not in row["docstring"]:
        return False
    if settings.self_contained and row["outside"]:
        return False
    return _of_the_length(row["body"], settings)


def _of_the_length(body: str, settings: DataSettings) -> bool:
    """Whether a body has as many lines, without empty ones, as are asked for."""
    lines = sum(bool(line.strip()) for line in body.splitlines())
    return settings.min_body_lines <= lines <= (settings.max_body_lines or lines)


def _references(settings: DataSettings) -> Iterator[Document]:
    known = problems(settings.problems)
    if not any(each.prompt and each.canonical for each in known.values()):
        raise UserError(
            f"{settings.problems}: no problem has a prompt and a solution, so there is nothing to learn from"
        )
    for problem in known.values():
        if problem.prompt and _of_the_length(problem.canonical, settings):
            prompt = completion_prompt(problem)
            yield Document(prompt, problem.prompt[len(prompt) :] + problem.canonical)


def _solutions(samples: Path, source: str) -> Iterator[Document]:
    from quadriga.codegen.command import default_out

    known = problems(source)
    seen = set()
    for task, group in judged_samples.read(samples, default_out(samples), known).items():
        for each in group:
            if each.passed and not each.sample.whole and (task, each.sample.code) not in seen:
                seen.add((task, each.sample.code))
                prompt = completion_prompt(known[task])
                yield Document(prompt, known[task].prompt[len(prompt) :] + each.sample.code)
    if not seen:
        raise UserError(f"{samples}: no sample passed, so there is nothing to learn from")


def load(settings: DataSettings, tokenizer: Any) -> Data:
    """Tokenized and packed.

    Args:
        settings: of the experiment.
        tokenizer: with an end token, which ends every document.

    Raises:
        UserError: as `documents`, or nothing is left to learn from.
    """
    train: list[Example] = []
    validation: list[Example] = []
    end = tokenizer.eos_token_id
    for number, document in enumerate(documents(settings)):
        if settings.limit is not None and number >= settings.limit:
            break
        if document.prompt:
            prompt = prompt_ids(tokenizer, document.prompt)
            target = [*tokenizer(document.target, add_special_tokens=False).input_ids, end]
        else:
            prompt, target = [], [*prompt_ids(tokenizer, document.target), end]
        examples = [Example(prompt, target)] if prompt else list(chunks(target, settings.length))
        (validation if for_validation(document, settings.validation_share) else train).extend(examples)
    found = Data(*(pack(part, settings.length, end) for part in (train, validation)))
    if not len(found.train.rows.ids):
        raise UserError(
            f"nothing to learn from: of {len(train):,} examples all are longer than data.length = {settings.length}"
            if train
            else "nothing to learn from: no document is left for training; give a smaller data.validation_share"
        )
    return found


def for_validation(document: Document, share: float) -> bool:
    """Whether a document is held out: by its own text, so that more documents change nothing for the others."""
    digest = hashlib.blake2b("\0".join(document).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64
