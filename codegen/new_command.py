"""`quadriga code new`: thin; makes a model that has learned nothing yet, with a tokenizer for code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quadriga.codegen.options import AsJson, Seed
from quadriga.platform.errors import UserError

MEASURED_SHARE = 20
"""One in so many files is left out of the tokenizer's training, and its tokens are counted."""


def new(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Model and tokenizer.", show_default=False)],
    corpus: Annotated[Path, typer.Option("--corpus", metavar="DIR", help="Of code corpus build.")] = Path("corpus"),
    vocabulary: Annotated[int, typer.Option("--vocabulary", metavar="N", help="Of the tokenizer.")] = 8192,
    layers: Annotated[int, typer.Option("--layers", metavar="N", help="Transformer blocks.")] = 6,
    width: Annotated[int, typer.Option("--width", metavar="N", help="Of the hidden states.")] = 256,
    heads: Annotated[int, typer.Option("--heads", metavar="N", help="Of the attention.")] = 8,
    context: Annotated[int, typer.Option("--context", metavar="N", help="Longest sequence, in tokens.")] = 1024,
    against: Annotated[
        str | None, typer.Option("--against", metavar="MODEL", help="Count tokens beside this model's tokenizer.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Make a small model with random weights, and train a tokenizer for code on a corpus.

    \b
    quadriga code new small --corpus corpus
    quadriga code finetune codex --model small --corpus corpus --set optimizer.learning_rate=1e-3
    """
    from quadriga.codegen import corpus as corpora
    from quadriga.codegen import from_scratch, models

    shape = from_scratch.Shape(layers, width, heads, context)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already and not empty; give another folder")
    texts = corpora.table(corpus / corpora.FILES, ["text"]).column("text").to_pylist()
    held_out, learned = texts[::MEASURED_SHARE], [t for n, t in enumerate(texts) if n % MEASURED_SHARE] or texts
    other = models.read_tokenizer(models.find(against)) if against is not None else None
    made = from_scratch.tokenizer(learned, vocabulary)
    counts = {"ours": from_scratch.tokens(made, held_out)}
    spelled = from_scratch.tokenizer(learned, vocabulary, runs=False)
    counts["space by space"] = from_scratch.tokens(spelled, held_out)
    if other is not None:
        counts[str(against)] = from_scratch.tokens(other, held_out)
    born = from_scratch.model(len(made), made.eos_token_id, shape, seed)
    born.save_pretrained(out)
    made.save_pretrained(out)
    size = sum(each.numel() for each in born.parameters())
    characters = sum(map(len, held_out))
    if as_json:
        from quadriga.platform.progress import json_line

        print(json_line({"out": str(out), "parameters": size, "characters": characters, "tokens": counts}))
        return
    print(f"model: {out}, {size:,} weights, vocabulary of {len(made):,}")
    print(f"tokens of {len(held_out):,} files that the tokenizer has not seen, {characters:,} characters:")
    for name, count in counts.items():
        saved = "" if name == "ours" else f"  ({1 - counts['ours'] / count:+.1%} saved)"
        print(f"  {name:<24} {count:,}{saved}")
    print(f"next: quadriga code finetune codex --model {out} --corpus {corpus}")
