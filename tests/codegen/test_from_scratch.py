"""A tokenizer for code loses nothing and spends less on indentation; its model is one of `transformers`."""

import json
import statistics
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadriga.codegen import corpus, from_scratch
from quadriga.codegen.from_scratch import Shape
from quadriga.platform.cli import run
from quadriga.platform.errors import UserError

TEXTS = [Path(module.__file__).read_text() for module in (statistics, textwrap)]
MADE = []


def made():
    if not MADE:
        MADE.append(from_scratch.tokenizer(TEXTS, 600))
    return MADE[0]


@given(st.text(max_size=60))
def test_every_text_is_its_own_again(text):
    ids = made()(text, add_special_tokens=False).input_ids
    assert made().decode(ids) == text.encode("utf-8", "replace").decode()


def test_a_line_break_with_its_indentation_is_one_token():
    for n in (4, 8):
        assert len(made()("\n" + " " * n + "x", add_special_tokens=False).input_ids) == 2


def test_code_takes_fewer_tokens():
    plain = from_scratch.tokenizer(TEXTS, 600, runs=False)
    assert len(plain) <= 600 and len(made()) <= 600
    assert from_scratch.tokens(made(), TEXTS) < 0.95 * from_scratch.tokens(plain, TEXTS)


def test_a_model_is_made_from_the_command_line_and_loads(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "small"
    source.mkdir()
    for n, text in enumerate(TEXTS):
        (source / f"m{n}.py").write_text(text)
    corpus.build(corpus.Settings((str(source),), against=()), tmp_path / "corpus")
    size = ["--vocabulary", "600", "--layers", "2", "--width", "32", "--heads", "4", "--context", "128"]
    words = ["code", "new", str(out), "--corpus", str(tmp_path / "corpus"), *size]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    from quadriga.codegen import models

    source = models.find(str(out))
    assert models.read_config(source).max_position_embeddings == 128
    assert models.read_tokenizer(source).eos_token == "<|end|>"
    assert found["parameters"] < 100_000 and found["tokens"]["ours"] > 0
    assert run(words) == 2
    assert "already and not empty" in capsys.readouterr().err


def test_impossible_shapes_are_refused():
    with pytest.raises(UserError, match="width: expected a multiple of twice the heads"):
        Shape(width=100, heads=8)
    with pytest.raises(UserError, match="layers: expected 1 or more"):
        Shape(layers=0)
    with pytest.raises(UserError, match="--vocabulary: expected more than 257"):
        from_scratch.tokenizer(TEXTS, 257)
