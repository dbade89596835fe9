"""The fine-tuning experiment: data x model x optimizer. Only settings; `quadriga.codegen.finetuning` uses them.

`steps` counts optimizer steps. The paper's numbers (Chen et al. 2021, section 3.2): Adam with beta1 0.9,
beta2 0.95, epsilon 1e-8 and weight decay 0.1, 175 steps of linear warm-up, then a cosine.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from quadriga.platform.experiment import Experiment, Section

EVALUATED = ("humaneval", "builtin")
Count = Annotated[int, Field(ge=1)]


class DataSettings(Section):
    """What is learned."""

    form: Annotated[
        Literal["files", "functions", "docstrings", "solutions"],
        Field(description="whole files; signature and docstring to body; body to docstring; problem to passed sample"),
    ] = "files"
    corpus: Annotated[str | None, Field(description="folder of quadriga code corpus build")] = None
    samples: Annotated[
        str | None,
        Field(
            description="of solutions: file of quadriga code sample, with its results beside it; without, "
            "the problems' own solutions are learned"
        ),
    ] = None
    problems: Annotated[str, Field(description="of solutions: humaneval, builtin or a file")] = "builtin"
    length: Annotated[int, Field(ge=16, description="tokens of a packed row")] = 512
    validation_share: Annotated[
        float, Field(ge=0, lt=1, description="of the documents, by a hash of their text; never learned")
    ] = 0.02
    standalone: Annotated[bool, Field(description="of functions and docstrings: no methods of classes")] = False
    examples: Annotated[
        bool, Field(description="of functions and docstrings: only where the docstring shows a call, by >>>")
    ] = False
    self_contained: Annotated[
        bool,
        Field(
            description="of functions and docstrings: only those that need no more than builtins and the standard "
            "library; what they import stands at the head of their prompt"
        ),
    ] = False
    min_body_lines: Annotated[
        int, Field(ge=0, description="of functions, docstrings and problems' own solutions: fewest lines of a body")
    ] = 0
    max_body_lines: Annotated[int | None, Field(ge=1, description="of these: most lines of a body")] = None
    limit: Annotated[int | None, Field(ge=1, description="only the first so many documents")] = None

    @model_validator(mode="after")
    def _has_a_source(self) -> DataSettings:
        if self.form != "solutions" and self.corpus is None:
            raise ValueError(f"data.corpus: data.form {self.form} needs it")
        if self.form == "solutions" and self.samples is None and self.problems in EVALUATED:
            raise ValueError(
                f"data.problems: {self.problems} is for evaluation, its own solutions are not learned; give a file of "
                "quadriga code corpus problems, or data.samples"
            )
        return self


class ModelSettings(Section):
    """What learns."""

    name: Annotated[str, Field(description="smollm2, a folder, a .gguf file or a name of the hub")] = "smollm2"
    lora_rank: Annotated[int, Field(ge=0, description="of low-rank adapters (needs peft); 0 trains all weights")] = 0
    lora_alpha: Annotated[float, Field(gt=0, description="their scale is alpha / rank")] = 16.0


class OptimizerSettings(Section):
    """Adam, with the paper's numbers but for the learning rate, which depends on the model."""

    learning_rate: Annotated[float, Field(gt=0, description="after the warm-up")] = 1e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0, description="decoupled; not of biases and norms")] = 0.1
    warmup_steps: Annotated[int, Field(ge=0, description="linear")] = 175
    final_share: Annotated[float, Field(ge=0, le=1, description="of the learning rate at the end of the cosine")] = 0.0
    clip_norm: Annotated[float, Field(gt=0, description="of the gradient")] = 1.0


class ComputeSettings(Section):
    """Where it runs."""

    workers: Annotated[int, Field(ge=0, description="Ray actors that share a batch; 0: this process")] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Annotated[
        Literal["float32", "bfloat16"] | None,
        Field(description="of the products; weights are float32. By default bfloat16 on a GPU"),
    ] = None


class CodeExperiment(Experiment):
    """A fine-tuning experiment."""

    SHORTHAND: ClassVar[dict[str, str]] = {"data": "corpus", "model": "name"}

    data: DataSettings
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    batch_size: Annotated[int, Field(ge=1, description="packed rows of a step, over all workers")] = 8
    micro_batch: Annotated[int, Field(ge=1, description="rows of one pass; gradients are accumulated over them")] = 2
    compute: ComputeSettings = ComputeSettings()
    report_every: Annotated[int, Field(ge=1, description="optimizer steps of a row of metrics")] = 10

    @model_validator(mode="after")
    def _workers_share(self) -> CodeExperiment:
        workers = max(1, self.compute.workers)
        if self.batch_size % workers:
            raise ValueError(f"batch_size: expected a multiple of compute.workers ({workers}), got {self.batch_size}")
        return self
