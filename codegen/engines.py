"""What makes samples: one model in this process, several as Ray actors, or vLLM, behind one interface.

An engine draws requests from an iterator as it has room for them and gives samples as they are
finished. A killed actor's requests go to another one; what an actor had finished is never made again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from quadriga.codegen.decoding import Decoder, Decoding, Finished, Request
from quadriga.codegen.models import (
    Loaded,
    Source,
    choose_device,
    choose_dtype,
    lay_out_for_decoding,
    load,
    needs,
    read_config,
    require_memory,
)
from quadriga.codegen.sampling import Engine
from quadriga.platform.errors import UserError, one_line
from quadriga.platform.placement import await_start

ENGINES = ("quadriga", "vllm")
STEPS = 16
ATTEMPTS = 3


@dataclass(frozen=True)
class Setup:
    """What an engine needs to load a model.

    Attributes:
        source: of the model.
        dtype: name of the type that is computed in, or `auto`.
        device: `auto`, `cpu` or `cuda`.
        slots: sequences at once in one process.
        capacity: tokens of the longest prompt with its sample.
        workers: Ray actors; 0 is this process.
    """

    source: Source
    dtype: str = "auto"
    device: str = "auto"
    slots: int = 32
    capacity: int = 1024
    workers: int = 0

    def load(self) -> Loaded:
        """The model, in this process.

        Raises:
            UserError: as `quadriga.codegen.models.load`.
        """
        device = choose_device(self.device)
        dtype = choose_dtype(self.dtype, device)
        loaded = load(self.source, dtype, device, capacity=self.capacity, slots=self.slots)
        if device.type == "cpu":
            lay_out_for_decoding(loaded.model)
        return loaded

    def require_memory(self) -> None:
        """Estimates before anything is loaded.

        Raises:
            UserError: it does not fit, here: into a GPU once, for each actor has its own, else `workers` times.
        """
        device = choose_device(self.device)
        found = needs(self.source, read_config(self.source), choose_dtype(self.dtype, device), self.capacity)
        copies = 1 if device.type == "cuda" else max(1, self.workers)
        require_memory(self.source.name, found.total(self.slots), device, copies)


class LocalEngine:
    """A model in this process."""

    def __init__(self, loaded: Loaded, setup: Setup, decoding: Decoding) -> None:
        self._decoder = Decoder(loaded.model, loaded.tokenizer, decoding, slots=setup.slots, capacity=setup.capacity)

    def run(self, requests: Iterator[Request]) -> Iterator[Finished]:
        decoder = self._decoder
        while True:
            while decoder.open < 2 * decoder.slots and (request := next(requests, None)) is not None:
                decoder.add([request])
            if not decoder.open:
                return
            yield from decoder.advance(STEPS)


class SamplerWorker:
    """A model as a Ray actor (`ray.remote(SamplerWorker)`)."""

    def __init__(self, setup: Setup) -> None:
        import torch

        torch.set_num_threads(1)
        self._setup, self._loaded = setup, setup.load()

    def __repr__(self) -> str:
        """What Ray's dashboard and logs call it."""
        return f"sampler of {self._setup.source.name}"

    def process(self) -> int:
        """The process id of the actor."""
        import os

        return os.getpid()

    def begin(self, decoding: Decoding) -> None:
        """From now on samples are made so."""
        setup, loaded = self._setup, self._loaded
        self._decoder = Decoder(loaded.model, loaded.tokenizer, decoding, slots=setup.slots, capacity=setup.capacity)

    def advance(self, requests: list[Request]) -> list[Finished]:
        """Takes requests and works on all it has until something is finished, or for some steps."""
        self._decoder.add(requests)
        return self._decoder.advance(STEPS)


class RayEngine:
    """`SamplerWorker` actors on the Ray that this process is connected to, one a CPU slot or GPU."""

    def __init__(self, setup: Setup) -> None:
        """Starts the actors and waits for their models.

        Raises:
            UserError: one cannot load its model.
        """
        import ray

        from quadriga.codegen.workers import cause_of

        gpus = 1 if choose_device(setup.device).type == "cuda" else 0
        self._setup = setup
        options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._remote = ray.remote(**options)(SamplerWorker)
        self.actors = [self._start() for _ in range(setup.workers)]
        self._deaths = 0
        asked = [actor.process.remote() for actor in self.actors]
        await_start(asked, "samplers")
        try:
            ray.get(asked)
        except ray.exceptions.RayError as error:
            self.close()
            raise UserError(f"a sampler did not start: {cause_of(error)}") from error

    def begin(self, decoding: Decoding) -> RayEngine:
        """From now on samples are made so; the engine itself."""
        import ray

        self._decoding = decoding
        ray.get([actor.begin.remote(decoding) for actor in self.actors])
        return self

    def run(self, requests: Iterator[Request]) -> Iterator[Finished]:
        import ray

        from quadriga.codegen.workers import cause_of

        again: deque[Request] = deque()
        held: list[dict[int, Request]] = [{} for _ in self.actors]
        flying: dict[Any, int] = {}
        while True:
            for place, actor in enumerate(self.actors):
                if place in flying.values():
                    continue
                new = []
                while len(held[place]) < 2 * self._setup.slots:
                    request = again.popleft() if again else next(requests, None)
                    if request is None:
                        break
                    new.append(request)
                    held[place][request.token] = request
                if held[place]:
                    flying[actor.advance.remote(new)] = place
            if not flying:
                return
            (reference, *_), _ = ray.wait(list(flying), num_returns=1)
            place = flying.pop(reference)
            try:
                done = ray.get(reference)
            except ray.exceptions.RayActorError as error:
                self._deaths += 1
                if self._deaths > ATTEMPTS * len(self.actors):
                    raise UserError(f"samplers keep dying: {one_line(error)}") from error
                again.extend(held[place].values())
                held[place] = {}
                self.actors[place] = self._start()
                self.actors[place].begin.remote(self._decoding)
                continue
            except ray.exceptions.RayError as error:
                raise UserError(f"a sampler failed: {cause_of(error)}") from error
            for finished in done:
                del held[place][finished.token]
                yield finished

    def close(self) -> None:
        """Ends the actors."""
        import ray

        for actor in self.actors:
            ray.kill(actor)

    def _start(self) -> Any:
        return self._remote.remote(self._setup)


class VllmEngine:
    """vLLM, where it is installed: its own decode loop and random streams, the same requests and samples."""

    def __init__(self, setup: Setup) -> None:
        """Loads the model.

        Raises:
            UserError: vLLM is not installed, or does not take this model.
        """
        try:
            import vllm
        except ImportError as error:
            raise UserError(
                "--engine vllm: vLLM is not installed: pip install vllm (Linux with a GPU); or leave --engine out"
            ) from error
        if setup.source.gguf_file:
            raise UserError(f"--engine vllm: model {setup.source.name!r} is quantized; give a folder or a hub name")
        self._vllm, self._setup = vllm, setup
        self._model = vllm.LLM(
            model=setup.source.location, dtype=setup.dtype, max_model_len=setup.capacity, max_num_seqs=setup.slots
        )

    def begin(self, decoding: Decoding) -> VllmEngine:
        """From now on samples are made so; the engine itself."""
        self._decoding = decoding
        return self

    def run(self, requests: Iterator[Request]) -> Iterator[Finished]:
        decoding = self._decoding
        while batch := [request for request, _ in zip(requests, range(8 * self._setup.slots), strict=False)]:
            parameters = [
                self._vllm.SamplingParams(
                    temperature=decoding.temperature,
                    top_p=decoding.top_p,
                    max_tokens=decoding.max_new_tokens,
                    stop=list(decoding.stops),
                    seed=int(request.uniforms[0] * 2**31),
                    logprobs=0,
                )
                for request in batch
            ]
            prompts = [{"prompt_token_ids": list(request.prompt)} for request in batch]
            answers = self._model.generate(prompts, parameters, use_tqdm=False)
            for request, answer in zip(batch, answers, strict=True):
                one = answer.outputs[0]
                end = "length" if one.finish_reason == "length" else "stop" if one.stop_reason else "end"
                yield Finished(request.token, one.text, len(one.token_ids), float(one.cumulative_logprob or 0.0), end)


class Engines:
    """Engines for one model with different decodings; the model is loaded once, when the first is asked for."""

    def __init__(self, setup: Setup, kind: str = "quadriga") -> None:
        """Loads nothing.

        Raises:
            UserError: no such kind, or several processes of vLLM.
        """
        if kind not in ENGINES:
            raise UserError(f"--engine: expected {' or '.join(ENGINES)}, got {kind!r}")
        if kind == "vllm" and setup.workers:
            raise UserError("--engine vllm spreads over GPUs by itself: leave --samplers out")
        self._setup, self._kind = setup, kind
        self._loaded: Loaded | None = None
        self._shared: RayEngine | VllmEngine | None = None

    def engine(self, decoding: Decoding, capacity: int, *, elsewhere: bool = False) -> Engine:
        """One for `decoding` and sequences of `capacity` tokens.

        Args:
            decoding: how tokens are chosen.
            capacity: of the longest prompt with its sample.
            elsewhere: Ray's actors may be on other machines, each of which looks at its own memory.

        Raises:
            UserError: the model cannot be loaded.
        """
        setup = replace(self._setup, capacity=capacity)
        if self._kind == "vllm":
            self._shared = self._shared or VllmEngine(setup)
        elif setup.workers:
            if self._shared is None:
                if not elsewhere:
                    setup.require_memory()
                self._shared = RayEngine(setup)
        else:
            self._loaded = self._loaded or setup.load()
            return LocalEngine(self._loaded, setup, decoding)
        return self._shared.begin(decoding)

    def close(self) -> None:
        """Ends all processes. May be called twice."""
        if isinstance(self._shared, RayEngine):
            self._shared.close()
        self._shared = self._loaded = None
