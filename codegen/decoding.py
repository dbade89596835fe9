"""The decode loop: many sequences in one batch, each with its own place and length.

- The key-value cache is allocated once (`quadriga.codegen.slot_cache`). A slot whose sequence has
  ended takes the next one at once; with none left, the last one moves into its place and the batch shrinks.
- A prompt is read once. Its further samples copy its keys and values from any slot that holds it.
- Every sample draws from a random stream of its own (`quadriga.codegen.nucleus.uniforms`): who else is
  in the batch does not matter, up to the rounding of matrix products of another shape.

Knows tokens and models; nothing of problems, files or processes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from quadriga.codegen import nucleus
from quadriga.codegen.prompts import cut
from quadriga.codegen.slot_cache import SlotCache
from quadriga.platform.errors import UserError

PROMPTS_REMEMBERED = 16
CONTEXT_TOKENS = 8
ENDS = ("stop", "end", "length")


class Request(NamedTuple):
    """One sample to be made.

    Attributes:
        token: names it to the caller.
        prompt: token ids, at least one.
        uniforms: float64 [max_new_tokens], its random numbers.
    """

    token: int
    prompt: tuple[int, ...]
    uniforms: np.ndarray


class Finished(NamedTuple):
    """A sample.

    Attributes:
        token: of its request.
        text: up to its stop sequence or end token.
        tokens: how many were generated, those of the stop sequence or the end token among them.
        logprob: their log-probability under the model at temperature 1, added up.
        end: `stop` (a stop sequence), `end` (the end token) or `length`.
    """

    token: int
    text: str
    tokens: int
    logprob: float
    end: str


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen, and when to stop.

    Attributes:
        temperature: 0 is greedy.
        top_p: of the nucleus; 1 is the whole distribution.
        max_new_tokens: of a sample.
        stops: stop sequences, not part of the sample.

    Raises:
        UserError: a value out of range.
    """

    temperature: float = 0.2
    top_p: float = 0.95
    max_new_tokens: int = 300
    stops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise UserError(f"temperature: expected a number from 0 to 10, got {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p: expected a number above 0, at most 1, got {self.top_p!r}")
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens: expected 1 or more, got {self.max_new_tokens!r}")


@dataclass
class _Row:
    """A sequence under way; `token` is the one that the next pass reads, `None` before it is chosen."""

    request: Request
    length: int
    logprob: float = 0.0
    token: int | None = None
    tokens: list[int] = field(default_factory=list)


class Text:
    """Tokens to text, and whether a stop sequence is in it."""

    def __init__(self, decode: Callable[[list[int]], str], stops: tuple[str, ...]) -> None:
        """With `decode` from token ids to text, special tokens left out."""
        self._decode, self._stops = decode, stops
        longest = max((len(stop.encode("utf-8")) for stop in stops), default=0)
        self._window = longest + CONTEXT_TOKENS  # no token that is shown is shorter than a byte

    def stopped(self, prompt: tuple[int, ...], tokens: list[int]) -> str | None:
        """The text up to a stop sequence, if the last token completed one."""
        if not self._stops:
            return None
        tail = self._decode(tokens[-self._window :])
        if not any(stop in tail for stop in self._stops):
            return None
        text, found = cut(self.whole(prompt, tokens), self._stops)
        return text if found else None

    def whole(self, prompt: tuple[int, ...], tokens: list[int]) -> str:
        """The text of `tokens` as it stands behind the prompt: some tokenizers show the first word otherwise."""
        before = list(prompt[-CONTEXT_TOKENS:])
        return self._decode(before + tokens)[len(self._decode(before)) :]


class Decoder:
    """Takes requests, gives samples."""

    def __init__(self, model: Any, tokenizer: Any, decoding: Decoding, *, slots: int, capacity: int) -> None:
        """Allocates nothing before the first prompt.

        Args:
            model: a causal LM of `transformers`, in evaluation mode.
            tokenizer: its tokenizer.
            decoding: how tokens are chosen.
            slots: sequences at once.
            capacity: tokens of the longest prompt with its sample.

        Raises:
            UserError: the model attends to a window shorter than `capacity`.
        """
        config = model.config
        window = getattr(config, "sliding_window", None)
        if window and getattr(config, "use_sliding_window", True) and window < capacity:
            raise UserError(f"the model attends to {window:,} tokens only; fewer than the {capacity:,} asked for")
        self.decoding, self.slots, self.capacity = decoding, slots, capacity
        self._model, self._device = model, model.device
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        ends = ends if isinstance(ends, list) else [ends]
        self._ends = {tokenizer.eos_token_id, *ends} - {None}
        self._text = Text(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)), decoding.stops)
        self._cache = SlotCache(config.num_hidden_layers, slots, capacity)
        self._queue: deque[Request] = deque()
        self._rows: list[_Row] = []
        self._holds: list[tuple[int, ...] | None] = [None] * slots
        self._first: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()
        self._logits = torch.empty(0)
        self.prefills = self.generated = 0

    @property
    def open(self) -> int:
        """Requests that are not finished."""
        return len(self._queue) + len(self._rows)

    def add(self, requests: Iterable[Request]) -> None:
        """Takes requests; those of one prompt should follow each other.

        Raises:
            UserError: a prompt and its sample are longer than a slot.
        """
        for request in requests:
            if len(request.prompt) + self.decoding.max_new_tokens > self.capacity:
                raise UserError(
                    f"a prompt of {len(request.prompt):,} tokens and {self.decoding.max_new_tokens:,} new ones do not "
                    f"fit into {self.capacity:,}"
                )
            self._queue.append(request)

    @torch.inference_mode()
    def advance(self, steps: int) -> list[Finished]:
        """At most `steps` passes over all rows; what was finished on the way."""
        done: list[Finished] = []
        for _ in range(steps):
            self._refill()
            if not self._rows:
                break
            while fresh := [n for n, row in enumerate(self._rows) if row.token is None]:
                self._choose(fresh, done)
            if self._rows:
                self._pass()
        return done

    def _refill(self) -> None:
        while self._queue and len(self._rows) < self.slots:
            request = self._queue.popleft()
            place = len(self._rows)
            self._rows.append(_Row(request, len(request.prompt)))
            self._seat(request.prompt, place)

    def _seat(self, prompt: tuple[int, ...], place: int) -> None:
        """Brings a prompt's keys, values and last logits to slot `place`."""
        held = next((n for n, other in enumerate(self._holds) if other == prompt), None)
        if held is None or prompt not in self._first:
            self._cache.read_into(place)
            ids = torch.tensor([prompt], device=self._device)
            positions = torch.arange(len(prompt), device=self._device)[None]
            out = self._model(
                input_ids=ids, position_ids=positions, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
            self.prefills += 1
            self._first[prompt] = out.logits[0, -1].float()
            if len(self._first) > PROMPTS_REMEMBERED:
                self._first.popitem(last=False)
        elif held != place:
            self._cache.copy(held, place, len(prompt))
        self._first.move_to_end(prompt)
        self._holds[place] = prompt
        logits = self._first[prompt]
        if not self._logits.numel():
            self._logits = logits.new_empty(self.slots, len(logits))
        self._logits[place] = logits

    def _choose(self, fresh: list[int], done: list[Finished]) -> None:
        """A token for each of the rows `fresh`; rows that end with it make room."""
        logits = self._logits[fresh]
        drawn = [self._rows[n].request.uniforms[len(self._rows[n].tokens)] for n in fresh]
        uniform = torch.tensor(np.array(drawn), device=self._device)
        tokens = nucleus.choose(logits, self.decoding.temperature, self.decoding.top_p, uniform)
        logprobs = nucleus.log_probability(logits, tokens).tolist()
        if not np.isfinite(logprobs).all():
            raise UserError("the model gives probabilities that are no numbers; try --dtype float32")
        ended = []
        for n, token, logprob in zip(fresh, tokens.tolist(), logprobs, strict=True):
            row = self._rows[n]
            row.token = token
            row.tokens.append(token)
            row.logprob += logprob
            self.generated += 1
            if (sample := self._ended(row)) is not None:
                done.append(sample)
                ended.append(n)
        for n in reversed(ended):
            self._release(n)

    def _ended(self, row: _Row) -> Finished | None:
        request, tokens = row.request, row.tokens
        if row.token in self._ends:
            text, end = self._text.whole(request.prompt, tokens[:-1]), "end"
        elif (stopped := self._text.stopped(request.prompt, tokens)) is not None:
            text, end = stopped, "stop"
        elif len(tokens) >= self.decoding.max_new_tokens:
            text, end = self._text.whole(request.prompt, tokens), "length"
        else:
            return None
        return Finished(request.token, text, len(tokens), row.logprob, end)

    def _release(self, place: int) -> None:
        """The next request takes the place; without one the last row does."""
        if self._queue:
            request = self._queue.popleft()
            self._rows[place] = _Row(request, len(request.prompt))
            self._seat(request.prompt, place)
            return
        last = self._rows.pop()
        if place < len(self._rows):
            self._rows[place] = last
            self._cache.copy(len(self._rows), place, last.length)
            self._holds[place] = self._holds[len(self._rows)]
            self._logits[place] = self._logits[len(self._rows)]

    def _pass(self) -> None:
        """Reads every row's token; its logits for the next one."""
        rows = self._rows
        span = 1 + max(row.length for row in rows)
        positions = torch.tensor([row.length for row in rows], device=self._device)
        ids = torch.tensor([[row.token] for row in rows], device=self._device)
        seen = torch.arange(span, device=self._device)[None, None, None] <= positions[:, None, None, None]
        self._cache.step(positions, span)
        out = self._model(
            input_ids=ids,
            position_ids=positions[:, None],
            attention_mask=seen,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._logits[: len(rows)] = out.logits[:, -1].float()
        for row in rows:
            row.length += 1
            row.token = None
