"""What `quadriga code sample` and `code evaluate` are both told, as one object, and the work that it describes.

Everything that can be said to be wrong before a model is loaded is said here. What becomes of the samples is the
commands' own business.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quadriga.codegen.options import (
    Address,
    Device,
    Dtype,
    EngineKind,
    MaxNewTokens,
    Model,
    Problems,
    Samplers,
    Seed,
    Slots,
    Stop,
    TopP,
)
from quadriga.platform.errors import UserError

if TYPE_CHECKING:
    from quadriga.codegen.engines import Engines
    from quadriga.codegen.problems import Problem
    from quadriga.codegen.sampling import Engine, Made, Plan

PROMPTING = "completion"
INTERVAL_S = 5.0


@dataclass(frozen=True)
class SamplingOptions:
    """The options of the command line by their names; `quadriga.codegen.options` says what each means."""

    model: Model = "smollm2"
    problems: Problems = "humaneval"
    top_p: TopP = 0.95
    max_new_tokens: MaxNewTokens = 300
    stop: Stop = None
    seed: Seed = 0
    slots: Slots = 32
    samplers: Samplers = 0
    address: Address = None
    engine: EngineKind = "quadriga"
    dtype: Dtype = "auto"
    device: Device = "auto"

    def prepare(
        self,
        samples: int,
        temperature: float,
        known: Mapping[str, Problem] | None = None,
        prompting: str = PROMPTING,
    ) -> tuple[Plan, Engines]:
        """What is to be made, and what will make it; no model is loaded.

        Args:
            samples: of each problem.
            temperature: 0 is greedy.
            known: what stands in for the problems that the options name.
            prompting: how these became prompts.

        Raises:
            UserError: an option has no such value, model or problems are missing, or a sample would not fit.
        """
        from quadriga.codegen import models, sampling
        from quadriga.codegen.decoding import Decoding
        from quadriga.codegen.engines import Engines, Setup
        from quadriga.codegen.problems import problems as load_problems
        from quadriga.codegen.prompts import stop_sequences

        decoding = Decoding(temperature, self.top_p, self.max_new_tokens, stop_sequences(self.stop))
        dtype = models.dtype_name(models.choose_dtype(self.dtype, models.choose_device(self.device)))
        found = models.find(self.model)
        engines = Engines(Setup(found, dtype, self.device, self.slots, workers=self.samplers), self.engine)
        known = load_problems(self.problems) if known is None else known
        config, tokenizer = models.read_config(found), models.read_tokenizer(found)
        settings = sampling.Settings(
            self.model, found.fingerprint(), dtype, self.engine, prompting, decoding, self.seed
        )
        context = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
        return sampling.plan(known, tokenizer, samples, settings, context), engines

    def run(self, work: Plan, engines: Engines, out: Path, *, quiet: bool) -> Made:
        """Makes what is not in `out` yet, with a line on standard error every few seconds unless `quiet`.

        Raises:
            UserError: as `sampling.sample`, or the model cannot be loaded.
        """
        from quadriga.codegen import sampling

        def engine() -> Engine:
            elsewhere = False
            if self.samplers:
                from quadriga.platform.runtime import ensure_ray

                elsewhere = not ensure_ray(self.address, num_cpus=self.samplers).started
            elif self.address is not None:
                raise UserError("--address: a cluster needs --samplers, the number of actors on it")
            return engines.engine(work.settings.decoding, work.capacity, elsewhere=elsewhere)

        return sampling.sample(work, engine, out, _progress(work, quiet=quiet))


def _progress(work: Plan, *, quiet: bool) -> Callable[[Made], None]:
    began = said = time.monotonic()

    def at(made: Made) -> None:
        nonlocal said
        now = time.monotonic()
        if quiet or now - said < INTERVAL_S:
            return
        said = now
        rate = made.tokens / (now - began)
        where = f"T = {work.settings.decoding.temperature:g}: {made.samples:,}/{work.total:,} samples"
        print(f"{where}, {rate:,.0f} tokens/s", file=sys.stderr, flush=True)

    return at
