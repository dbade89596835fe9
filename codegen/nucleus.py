"""One token out of a distribution: temperature, nucleus, inverse transform. Pure functions on tensors.

Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration": of the tokens in the order of
their probability, the smallest set whose probabilities add up to at least `top_p` is kept. A token
is the inverse of the distribution function at a given uniform number, so that the same numbers
choose the same tokens, whatever else is in the batch.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

FIRST_CANDIDATES = 64
WIDER = 8


def uniforms(seed: int, name: str, sample: int, count: int) -> np.ndarray:
    """The random numbers of one sample: float64 [count] in [0, 1), a stream of its own for each key.

    Args:
        seed: of the run.
        name: of the prompt, e.g. the task id.
        sample: its number among those of the prompt.
        count: how many.
    """
    key = hashlib.blake2b(f"{seed}\0{name}\0{sample}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(count)


def choose(logits: torch.Tensor, temperature: float, top_p: float, uniform: torch.Tensor) -> torch.Tensor:
    """A token for each row.

    Args:
        logits: float [B, V].
        temperature: 0 takes the most probable token.
        top_p: in (0, 1].
        uniform: float64 [B] in [0, 1); not looked at where the temperature is 0.

    Returns:
        int64 [B].
    """
    if temperature == 0:
        return logits.argmax(-1)
    scaled = logits.float() / temperature
    if top_p >= 1:
        cumulative = torch.softmax(scaled, -1, dtype=torch.float64).cumsum(-1)
        return _inverse(cumulative, cumulative[:, -1:], uniform)
    total = scaled.logsumexp(-1, keepdim=True)
    chosen = torch.empty(len(scaled), dtype=torch.long, device=scaled.device)
    rows = torch.arange(len(scaled), device=scaled.device)
    candidates = min(FIRST_CANDIDATES, scaled.shape[1])
    while len(rows):  # few tokens hold nearly all of the probability: sorting the vocabulary is seldom needed
        top, tokens = scaled[rows].topk(candidates, -1)
        probability = (top - total[rows]).double().exp()
        cumulative = probability.cumsum(-1)
        enough = (cumulative[:, -1] >= top_p) | (candidates == scaled.shape[1])
        before = cumulative - probability
        kept = ((before < top_p).sum(-1, keepdim=True) - 1).clamp(min=0)
        mass = cumulative.gather(-1, kept)
        places = torch.minimum(_inverse(cumulative, mass, uniform[rows]), kept[:, 0])
        found = tokens.gather(-1, places[:, None])[:, 0]
        chosen[rows[enough]] = found[enough]
        rows = rows[~enough]
        candidates = min(WIDER * candidates, scaled.shape[1])
    return chosen


def log_probability(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of `tokens` (int64 [B]) under `logits` (float [B, V]) at temperature 1: float64 [B]."""
    logits = logits.float()
    return logits.gather(-1, tokens[:, None])[:, 0].double() - logits.logsumexp(-1).double()


def _inverse(cumulative: torch.Tensor, mass: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first place whose cumulative probability lies above `uniform` times `mass`; int64 [B]."""
    places = torch.searchsorted(cumulative, uniform[:, None] * mass, right=True)[:, 0]
    return places.clamp(max=cumulative.shape[1] - 1)
