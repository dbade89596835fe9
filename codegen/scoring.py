"""How probable a model finds a text behind another one: teacher forcing in batches, no sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from quadriga.codegen.models import prompt_ids
from quadriga.platform.errors import UserError

if TYPE_CHECKING:
    from quadriga.codegen.models import Loaded

BATCH_TOKENS = 4096


@torch.inference_mode()
def logprobs(
    loaded: Loaded,
    pairs: Sequence[tuple[str, str]],
    each: Callable[[int, float], None] = lambda place, logprob: None,
) -> list[float]:
    """Log-probability of each pair's second text behind its first one, added over its tokens.

    A text that is longer than the model's context loses its beginning.

    Args:
        loaded: the model.
        pairs: what stands before, and what is scored.
        each: is told the place and the score of a pair as soon as it is known.

    Raises:
        UserError: a pair has an empty side, or its second text alone is longer than the context.
    """
    encoded = []
    for before, scored in pairs:
        head = prompt_ids(loaded.tokenizer, before)
        tail = list(loaded.tokenizer(scored, add_special_tokens=False).input_ids)
        if not head or not tail:
            raise UserError("nothing can be scored behind an empty text, nor an empty text behind another")
        if len(tail) >= loaded.context:
            raise UserError(f"a text of {len(tail):,} tokens is longer than the model's context of {loaded.context:,}")
        encoded.append((head[-(loaded.context - len(tail)) :], tail))
    found = [0.0] * len(pairs)
    for batch in _batches([len(head) + len(tail) for head, tail in encoded]):
        longest = max(len(encoded[n][0]) + len(encoded[n][1]) for n in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, n in enumerate(batch):
            whole = encoded[n][0] + encoded[n][1]
            ids[row, : len(whole)] = torch.tensor(whole)
            mask[row, : len(whole)] = 1
        hidden = ids.to(loaded.device)
        logits = loaded.model(input_ids=hidden, attention_mask=mask.to(loaded.device), use_cache=False).logits
        for row, n in enumerate(batch):
            head, tail = encoded[n]
            place = slice(len(head) - 1, len(head) + len(tail) - 1)
            shown = logits[row, place].float()
            target = torch.tensor(tail, device=loaded.device)[:, None]
            found[n] = float((shown.gather(-1, target)[:, 0] - shown.logsumexp(-1)).double().sum())
            each(n, found[n])
    return found


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Places of texts of similar length, together at most some tokens with their padding."""
    batches: list[list[int]] = []
    for n in sorted(range(len(lengths)), key=lambda n: lengths[n]):
        if batches and (len(batches[-1]) + 1) * lengths[n] <= BATCH_TOKENS:
            batches[-1].append(n)
        else:
            batches.append([n])
    return batches
