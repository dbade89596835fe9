"""The meta-learning experiment: tasks x inner loop x update. Only settings; the modules of the same names use them.

`steps` counts meta-iterations. The published numbers of every setting are in `presets`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from quadriga.platform.experiment import Experiment, Section

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
DataRoot = Annotated[
    str | None, Field(description="folder of the data sets; by default QUADRIGA_DATA, else ~/.cache/quadriga/data")
]


class SineSettings(Section):
    """Sine waves (the paper's section 4.1)."""

    kind: Literal["sine"] = "sine"
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"


class OmniglotSettings(Section):
    """Omniglot at 28x28: 1,200 characters to train on, each turned four ways; the other 423 to test on."""

    kind: Literal["omniglot"] = "omniglot"
    ways: Annotated[int, Field(ge=2, description="classes of a task")] = 5
    filters: Annotated[int, Field(ge=1, description="of each convolution")] = 64
    train_characters: Annotated[int, Field(ge=1)] = 1200
    split_seed: Annotated[int, Field(ge=0, description="of the shuffle that splits the characters")] = 0
    rotations: Annotated[bool, Field(description="turned characters are new classes in training")] = True
    data_root: DataRoot = None


class MiniImageNetSettings(Section):
    """Mini-ImageNet at 84x84 with the split of Ravi & Larochelle 2017: 64 classes to train on, 20 to test on."""

    kind: Literal["mini-imagenet"] = "mini-imagenet"
    ways: Annotated[int, Field(ge=2, description="classes of a task")] = 5
    filters: Annotated[int, Field(ge=1, description="of each convolution")] = 32
    data_root: DataRoot = None


class CustomSettings(Section):
    """A distribution of your own."""

    kind: Literal["custom"] = "custom"
    factory: Annotated[str, Field(description="function that makes a TaskDistribution: package.module:function")]
    options: Annotated[dict[str, Any], Field(description="its keyword arguments")] = {}


class InnerSettings(Section):
    """How a training task is learned."""

    optimizer: Annotated[Literal["adam", "sgd"], Field(description="adam has beta1 = 0")] = "adam"
    learning_rate: Positive = 1e-3
    beta2: Annotated[float, Field(ge=0, lt=1, description="of adam")] = 0.999
    reduction: Annotated[
        Literal["sum", "mean"] | None,
        Field(description="of the loss over a batch; by default sum for classes, as in the published code, else mean"),
    ] = None
    steps: Annotated[int, Field(ge=1, description="k; with tail_shots the last one is on the tail")] = 5
    batch_size: Count = 10
    shots: Annotated[int, Field(ge=1, description="examples of each class")] = 10
    tail_shots: Annotated[
        int, Field(ge=0, description="of these, held out of all minibatches but the last, which is made of them")
    ] = 0
    replacement: Annotated[bool, Field(description="draw every minibatch anew instead of walking through")] = False


class _Update(Section):
    meta_batch: Annotated[int, Field(ge=1, description="tasks of a meta-iteration; 1 is the serial version")] = 5
    step_size: Annotated[float, Field(gt=0, description="epsilon at the beginning")] = 1.0
    final_step_size: Annotated[float, Field(ge=0, description="epsilon at the end; linear in between")] = 0.0


class ReptileSettings(_Update):
    """Towards the weights that the tasks end with (Algorithms 1 and 2)."""

    kind: Literal["reptile"] = "reptile"


class FOMAMLSettings(_Update):
    """Along the last inner step alone, first-order MAML."""

    kind: Literal["fomaml"] = "fomaml"
    optimizer: Annotated[Literal["sgd", "adam"], Field(description="what takes the mean direction")] = "sgd"


class MAMLSettings(_Update):
    """Along the gradient of the tail's loss through all inner steps (Finn et al. 2017); inner optimizer sgd."""

    kind: Literal["maml"] = "maml"
    optimizer: Annotated[Literal["sgd", "adam"], Field(description="what takes the mean direction")] = "adam"
    step_size: Annotated[float, Field(gt=0)] = 1e-3
    final_step_size: Annotated[float, Field(ge=0)] = 1e-3


class GradientSumSettings(_Update):
    """Along a sum of some inner steps, `g_first + ... + g_last` (section 6.2)."""

    kind: Literal["gradient-sum"] = "gradient-sum"
    first: Annotated[int, Field(ge=1, description="first step of the sum, counted from 1")] = 1
    last: Annotated[int | None, Field(ge=1, description="last step of the sum; by default the loop's")] = None
    average: Annotated[bool, Field(description="divide by the number of steps")] = False


class EvaluationSettings(Section):
    """How a test task is learned, and how often that is done while training."""

    shots: Annotated[int, Field(ge=1, description="examples of each class to learn from")] = 1
    steps: Annotated[int, Field(ge=0, description="inner steps")] = 50
    batch_size: Count = 5
    tasks: Annotated[int, Field(ge=0, description="test tasks of a report while training; 0 for none")] = 20
    every: Annotated[int, Field(ge=1, description="reports between such tests")] = 1


class ComputeSettings(Section):
    """Where tasks are learned."""

    workers: Annotated[int, Field(ge=0, description="Ray actors; 0 learns in the driver. Results do not change")] = 0
    kernel: Annotated[
        Literal["auto", "handwritten", "autograd", "vectorized"],
        Field(description="auto: handwritten where there is one on a CPU, vectorized on a GPU, else autograd"),
    ] = "auto"
    device: Annotated[Literal["cpu", "cuda"], Field(description="of every worker")] = "cpu"
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    restart_limit: Annotated[int, Field(ge=0, description="dead workers replaced before the run stops")] = 20


class MetaExperiment(Experiment):
    """A meta-learning experiment; `steps` counts meta-iterations."""

    SHORTHAND: ClassVar[dict[str, str]] = {"task": "kind", "update": "kind"}

    steps: Annotated[int, Field(gt=0, description="meta-iterations in total")] = 100_000
    task: Annotated[
        SineSettings | OmniglotSettings | MiniImageNetSettings | CustomSettings, Field(discriminator="kind")
    ] = OmniglotSettings()
    inner: InnerSettings = InnerSettings()
    update: Annotated[
        ReptileSettings | FOMAMLSettings | MAMLSettings | GradientSumSettings, Field(discriminator="kind")
    ] = ReptileSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    compute: ComputeSettings = ComputeSettings()
    report_every: Annotated[int, Field(ge=1, description="meta-iterations of a row of metrics")] = 100

    @model_validator(mode="after")
    def _parts_fit(self) -> MetaExperiment:
        inner, update = self.inner, self.update
        if inner.tail_shots >= inner.shots:
            raise ValueError(
                f"inner.tail_shots: expected fewer than inner.shots ({inner.shots}), got {inner.tail_shots}"
            )
        if inner.tail_shots and inner.steps < 2:
            raise ValueError("inner.steps: expected at least 2 with inner.tail_shots, one of them on the tail, got 1")
        if isinstance(update, MAMLSettings) and inner.optimizer != "sgd":
            raise ValueError(f"inner.optimizer: maml differentiates through sgd steps, got {inner.optimizer!r}")
        if isinstance(update, GradientSumSettings):
            last = inner.steps if update.last is None else update.last
            if last > inner.steps:
                raise ValueError(f"update.last: expected at most inner.steps ({inner.steps}), got {last}")
            if update.first > last:
                raise ValueError(f"update.first: expected at most update.last ({last}), got {update.first}")
        if self.compute.device == "cuda" and self.compute.kernel == "handwritten":
            raise ValueError("compute.kernel: the handwritten kernels run on a CPU, got device 'cuda'")
        return self
