"""Models of code: samples a CPU second beside `model.generate` of transformers, prompt by prompt.

    python benchmarks/codegen.py [--model smollm2] [--problems N] [--samples N] [--new-tokens N] [--slots N]
                                 [--rounds N] [--dtype float32] [--quick] [--json FILE] [--markdown FILE]

One process and thread, the same weights (the peer's as transformers lays them out), the same prompts, temperature and
nucleus, in turn. No stop sequences on either side. CPU seconds are those of the process; loading is in none.
"""

from __future__ import annotations

import argparse
import os
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import machine
import torch
import two_sides

from quadriga.codegen import engines, models, nucleus
from quadriga.codegen.decoding import Decoder, Decoding, Request
from quadriga.codegen.problems import problems
from quadriga.codegen.prompts import completion_prompt

GOAL = 3.0
TEMPERATURE, TOP_P = 0.8, 0.95


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    known = machine.describe()
    source = models.find(arguments.model)
    loaded = engines.Setup(source, arguments.dtype, "cpu", arguments.slots).load()
    plain = models.load(source, models.choose_dtype(arguments.dtype, loaded.device), loaded.device)
    texts = [completion_prompt(each) for each in list(problems("builtin").values())[: arguments.problems]]
    prompts = [tuple(loaded.tokenizer(text).input_ids) for text in texts]
    sides = {
        two_sides.OURS: partial(ours, loaded, prompts, arguments),
        "model.generate": partial(generate, plain, prompts, arguments),
    }
    results = two_sides.measure(sides, arguments.rounds)
    asked = f"{arguments.model}, {arguments.dtype}, {len(prompts)} prompts x {arguments.samples} samples"
    asked += f" x {arguments.new_tokens} tokens, {arguments.slots} slots"
    two_sides.report("Sampling from a model of code", results, GOAL, asked, known, arguments)


def ours(loaded: models.Loaded, prompts: list[tuple[int, ...]], arguments: argparse.Namespace, seed: int) -> int:
    """The tokens that the decode loop made."""
    length = arguments.new_tokens
    capacity = max(map(len, prompts)) + length
    decoding = Decoding(TEMPERATURE, TOP_P, length)
    decoder = Decoder(loaded.model, loaded.tokenizer, decoding, slots=arguments.slots, capacity=capacity)
    decoder.add(
        Request(place * arguments.samples + number, prompt, nucleus.uniforms(seed, str(place), number, length))
        for place, prompt in enumerate(prompts)
        for number in range(arguments.samples)
    )
    tokens = 0
    while decoder.open:
        tokens += sum(sample.tokens for sample in decoder.advance(16))
    return tokens


def generate(loaded: models.Loaded, prompts: list[tuple[int, ...]], arguments: argparse.Namespace, seed: int) -> int:
    """The tokens that `model.generate` made of the first sample of each prompt: one sequence at a time."""
    torch.manual_seed(seed)
    tokens = 0
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = loaded.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=TOP_P,
                top_k=0,
                max_new_tokens=arguments.new_tokens,
                pad_token_id=loaded.tokenizer.eos_token_id,
            )
        tokens += out.shape[1] - ids.shape[1]
    return tokens


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Sampling beside model.generate.")
    parser.add_argument("--model", default="smollm2", help="as of quadriga code sample (default: smollm2)")
    parser.add_argument("--problems", type=int, default=8, help="prompts, of the builtin problems (default: 8)")
    parser.add_argument("--samples", type=int, default=16, help="of each prompt, ours (default: 16)")
    parser.add_argument("--new-tokens", type=int, default=128, help="of a sample (default: 128)")
    parser.add_argument("--slots", type=int, default=32, help="sequences at once, ours (default: 32)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default: float32)")
    two_sides.add_options(parser, quick="little of everything, one round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.problems, arguments.samples, arguments.new_tokens, arguments.rounds = 2, 16, 24, 1
    if min(arguments.problems, arguments.samples, arguments.new_tokens, arguments.slots, arguments.rounds) < 1:
        parser.error("numbers: expected 1 or more")
    return arguments


if __name__ == "__main__":
    main()
