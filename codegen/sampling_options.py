"""What `quadriga code sample` and `code evaluate` are both told, as one object, and the work that it describes.

Everything that can be said to be wrong before a model is loaded is said here. What is done with the work is the
commands' own business (`quadriga.codegen.sample_command`).
"""

from __future__ import annotations

from dataclasses import dataclass
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

if TYPE_CHECKING:
    from quadriga.codegen.engines import Engines
    from quadriga.codegen.sampling import Plan

PROMPTING = "completion"


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

    def prepare(self, samples: int, temperature: float) -> tuple[Plan, Engines]:
        """What is to be made, and what will make it; no model is loaded.

        Args:
            samples: of each problem.
            temperature: 0 is greedy.

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
        known = load_problems(self.problems)
        config, tokenizer = models.read_config(found), models.read_tokenizer(found)
        settings = sampling.Settings(
            self.model, found.fingerprint(), dtype, self.engine, PROMPTING, decoding, self.seed
        )
        context = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
        return sampling.plan(known, tokenizer, samples, settings, context), engines
