"""Models of code: samples a CPU second beside `model.generate` of transformers, prompt by prompt.

    python benchmarks/codegen.py [--model smollm2] [--problems N] [--samples N] [--new-tokens N] [--slots N]
                                 [--rounds N] [--dtype float32] [--quick] [--json FILE] [--markdown FILE]

One process, model and thread, the same prompts, temperature and nucleus, in turn. No stop sequences on either side.
CPU seconds are those of the process; loading is in none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import machine
import torch
from comparison import markdown_table, ratio, show_ratio, show_spread, spread

from quadriga.codegen import engines, models, nucleus
from quadriga.codegen.decoding import Decoder, Decoding, Request
from quadriga.codegen.problems import problems
from quadriga.codegen.prompts import completion_prompt
from quadriga.platform.tables import print_table

GOAL = 3.0
TEMPERATURE, TOP_P = 0.8, 0.95


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    known = machine.describe()
    source = models.find(arguments.model)
    loaded = engines.Setup(source, arguments.dtype, "cpu", arguments.slots).load()
    texts = [completion_prompt(each) for each in list(problems("builtin").values())[: arguments.problems]]
    prompts = [tuple(loaded.tokenizer(text).input_ids) for text in texts]
    sides: dict[str, Any] = {"ours": ours, "generate": generate}
    results: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(arguments.rounds):
        for name, side in sides.items():
            began = time.process_time()
            tokens = side(loaded, prompts, arguments, round_)
            results[name].append(1000 * (time.process_time() - began) / tokens)
        print(f"round {round_ + 1} of {arguments.rounds} measured", file=sys.stderr, flush=True)
    known["load_average_after"] = list(os.getloadavg())
    headers = ("side", "CPU ms a token")
    rows = [(name, show_spread(spread(values))) for name, values in results.items()]
    print_table(headers, rows)
    gained = ratio(results["ours"], results["generate"])
    reached = "reached" if gained.of_medians >= GOAL else "missed"
    said = f"{show_ratio(gained)} the tokens of model.generate a CPU second (goal {GOAL:g}x: {reached})"
    asked = f"{arguments.model}, {arguments.dtype}, {len(prompts)} prompts x {arguments.samples} samples"
    asked += f" x {arguments.new_tokens} tokens, {arguments.slots} slots"
    print(f"\n{said}\n{asked}\n{machine.sentence(known)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": known, "asked": asked, "ms": results}, indent=1) + "\n")
    if arguments.markdown:
        parts = [f"### Sampling from a model of code\n\n{machine.sentence(known)}. {asked}.\n"]
        parts += [markdown_table(headers, rows) + f"\n\n- {said}\n"]
        arguments.markdown.write_text("\n".join(parts), encoding="utf-8")


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
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default: float32)")
    parser.add_argument("--quick", action="store_true", help="little of everything, one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a fragment for RESULTS.md")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.problems, arguments.samples, arguments.new_tokens, arguments.rounds = 2, 16, 24, 1
    if min(arguments.problems, arguments.samples, arguments.new_tokens, arguments.slots, arguments.rounds) < 1:
        parser.error("numbers: expected 1 or more")
    return arguments


if __name__ == "__main__":
    main()
