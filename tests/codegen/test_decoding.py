"""The decode loop: what it writes is what the model says, whoever else is in the batch."""

from collections import Counter

import numpy as np
import pytest
import small_language_models
import torch

from quadriga.codegen import nucleus
from quadriga.codegen.decoding import Decoder, Decoding, Request, Text
from quadriga.platform.errors import UserError

PROMPTS = ("def add(a, b):", "class Stack:\n    def", "for n in range(10):\n    if n", "import os")


@pytest.fixture(scope="module")
def tokenizer():
    return small_language_models.tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return small_language_models.model(len(tokenizer))


def requests(tokenizer, samples, length, seed=0):
    found = []
    for name in PROMPTS:
        ids = tuple(tokenizer(name).input_ids)
        for sample in range(samples):
            found.append(Request(len(found), ids, nucleus.uniforms(seed, name, sample, length)))
    return found


def run(model, tokenizer, asked, decoding, slots, together=True):
    decoder = Decoder(model, tokenizer, decoding, slots=slots, capacity=64)
    done = []
    if together:
        decoder.add(asked)
    for request in [] if together else asked:
        decoder.add([request])
        done += decoder.advance(3)
    while decoder.open:
        done += decoder.advance(3)
    assert sorted(sample.token for sample in done) == sorted(request.token for request in asked)
    return decoder, {sample.token: sample for sample in done}


def test_greedy_equals_generate_token_for_token(model, tokenizer):
    asked = requests(tokenizer, 1, 24)
    _, found = run(model, tokenizer, asked, Decoding(0.0, 1.0, 24), slots=3)
    for request in asked:
        ids = torch.tensor([request.prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        written = out[0, ids.shape[1] :]
        assert found[request.token].text == tokenizer.decode(written, skip_special_tokens=True)
        assert found[request.token].tokens == len(written)


def test_log_probabilities_are_those_of_one_pass_over_the_whole_text(model, tokenizer):
    asked = requests(tokenizer, 2, 12)
    _, found = run(model, tokenizer, asked, Decoding(1.0, 1.0, 12), slots=3)
    for request in asked:
        sample = found[request.token]
        if sample.end != "length":
            continue
        # Tokens are drawn again from the stream, with the model's own logits for the text so far.
        ids = list(request.prompt)
        total = 0.0
        for number in request.uniforms:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[:, -1].float()
            token = nucleus.choose(logits, 1.0, 1.0, torch.tensor([number]))
            total += nucleus.log_probability(logits, token).item()
            ids.append(token.item())
        assert tokenizer.decode(ids[len(request.prompt) :], skip_special_tokens=True) == sample.text
        assert sample.logprob == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("slots", [1, 2, 5, 40])
def test_samples_do_not_depend_on_the_batch(model, tokenizer, slots):
    decoding = Decoding(0.8, 0.95, 16, ("\n",))
    asked = requests(tokenizer, 4, 16)
    _, expected = run(model, tokenizer, asked, decoding, slots=3)
    _, found = run(model, tokenizer, list(reversed(asked)), decoding, slots, together=slots % 2 == 0)
    assert {k: (s.text, s.tokens, s.end) for k, s in found.items()} == {
        k: (s.text, s.tokens, s.end) for k, s in expected.items()
    }


def test_samples_of_one_prompt_share_its_prefill(model, tokenizer):
    decoder, found = run(model, tokenizer, requests(tokenizer, 8, 10), Decoding(0.8, 0.95, 10), slots=4)
    assert decoder.prefills == len(PROMPTS)
    assert len({sample.text for sample in found.values()}) > len(PROMPTS)


def test_a_prompt_that_no_slot_holds_any_more_is_read_again(model, tokenizer):
    asked = requests(tokenizer, 2, 6)
    turns = [asked[n] for n in (0, 2, 4, 6, 1, 3, 5, 7)]
    _, expected = run(model, tokenizer, asked, Decoding(0.8, 0.95, 6), slots=2)
    decoder, found = run(model, tokenizer, turns, Decoding(0.8, 0.95, 6), slots=1)
    assert decoder.prefills == 8
    assert {k: s.text for k, s in found.items()} == {k: s.text for k, s in expected.items()}


def test_the_end_token_ends_a_sample_and_is_not_in_it(model, tokenizer):
    asked = requests(tokenizer, 30, 60)
    small = [request._replace(uniforms=request.uniforms[:30]) for request in asked]
    _, found = run(model, tokenizer, small, Decoding(2.0, 1.0, 30), slots=16)
    ends = Counter(sample.end for sample in found.values())
    assert ends["end"] and ends["length"]
    for sample in found.values():
        assert "<|end|>" not in sample.text
        assert (sample.tokens == 30) >= (sample.end == "length")


def test_a_stop_sequence_is_found_across_tokens_and_cut_off(tokenizer):
    text = Text(lambda ids: tokenizer.decode(ids, skip_special_tokens=True), ("\ndef", "\nclass"))
    ids = tokenizer("    return 1\n\ndef other():").input_ids
    seen = [text.stopped((), ids[: n + 1]) for n in range(len(ids))]
    stopped = [found for found in seen if found is not None]
    assert stopped and all(found == "    return 1\n" for found in stopped)
    first = next(n for n, found in enumerate(seen) if found is not None)
    assert tokenizer.decode(ids[: first + 1]).endswith("\ndef")


def test_a_stop_sequence_in_the_prompt_stops_nothing(tokenizer):
    text = Text(lambda ids: tokenizer.decode(ids, skip_special_tokens=True), ("\ndef",))
    assert text.stopped(tuple(tokenizer("\ndef").input_ids), tokenizer(" f(x)").input_ids) is None


def test_a_prompt_that_does_not_fit_is_refused(model, tokenizer):
    decoder = Decoder(model, tokenizer, Decoding(0.2, 0.95, 60), slots=1, capacity=62)
    with pytest.raises(UserError, match="a prompt of 3 tokens and 60 new ones do not fit into 62"):
        decoder.add([Request(0, (1, 2, 3), np.zeros(60))])


def test_a_sliding_window_is_refused(tokenizer):
    model = small_language_models.model(len(tokenizer))
    model.config.sliding_window = 16
    with pytest.raises(UserError, match="attends to 16 tokens only"):
        Decoder(model, tokenizer, Decoding(), slots=1, capacity=64)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"temperature": -1}, "temperature: expected a number from 0 to 10, got -1"),
        ({"temperature": float("nan")}, "temperature: expected a number from 0 to 10, got nan"),
        ({"top_p": 0}, "top_p: expected a number above 0, at most 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected 1 or more, got 0"),
    ],
)
def test_decoding_out_of_range_is_refused(fields, complaint):
    with pytest.raises(UserError, match=complaint):
        Decoding(**fields)


def test_weights_that_are_no_numbers_are_a_clear_error(tokenizer):
    broken = small_language_models.model(len(tokenizer))
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    decoder = Decoder(broken, tokenizer, Decoding(0.8, 0.95, 8), slots=1, capacity=64)
    decoder.add(requests(tokenizer, 1, 8)[:1])
    with pytest.raises(UserError, match="no numbers"):
        decoder.advance(1)
