"""The reinforcement-learning experiment: update rule x constraint x bonus on an environment.

Every field says what it is in its description; `quadriga list presets` names the published
combinations. Only settings live here; what they configure is in the modules of the same names.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from quadriga.platform.environments.safety_tasks import has_lidars
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.experiment import Experiment, Section
from quadriga.platform.rollouts.settings import RolloutSettings

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Unit = Annotated[float, Field(ge=0, le=1)]


class NetworkSettings(Section):
    """Policy and critics: multilayer perceptrons of one shape, no weights shared."""

    hidden_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"
    initial_log_std: Annotated[float, Field(description="of a Gaussian policy, the same in every dimension")] = -0.5


class AdvantageSettings(Section):
    """Discounts, and what is done to advantages over a whole batch before they are weighed."""

    discount: Annotated[Unit, Field(description="gamma of the reward")] = 0.99
    gae_lambda: Unit = 0.95
    cost_discount: Unit = 0.99
    cost_gae_lambda: Unit = 0.95
    reward: Annotated[
        Literal["standardize", "center", "none"],
        Field(description="reward advantages: mean 0 and deviation 1, mean 0, as is"),
    ] = "standardize"
    cost: Annotated[Literal["standardize", "center", "none"], Field(description="cost advantages, likewise")] = "center"


class PPOSettings(Section):
    """Proximal policy optimization (Schulman et al. 2017): clipped surrogate, early stop on the KL."""

    kind: Literal["ppo"] = "ppo"
    learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    anneal_learning_rate: Annotated[bool, Field(description="the policy's, linearly to 0 over the run")] = False
    epochs: Annotated[int, Field(ge=1, description="passes over the batch")] = 10
    minibatch_size: Annotated[int, Field(ge=1, description="over all learners")] = 128
    clip: Annotated[float, Field(gt=0, lt=1, description="epsilon of the clipped ratio")] = 0.2
    entropy_coefficient: NonNegative = 0.0
    target_kl: Annotated[
        float | None, Field(gt=0, description="the policy stops for this batch once an epoch's mean KL exceeds it")
    ] = 0.02
    max_grad_norm: Annotated[float | None, Field(gt=0, description="of the policy, and of the critics")] = 0.5


class NoConstraint(Section):
    """Reward alone counts; costs are measured."""

    kind: Literal["none"] = "none"


class _Constraint(Section):
    cost_limit: Annotated[float, Field(ge=0, description="d: undiscounted cost an episode")] = 25.0
    normalize_objective: Annotated[bool, Field(description="(A_R - lambda A_C) / (1 + lambda)")] = True
    multiplier_max: Positive = 100.0
    window: Annotated[
        int | None,
        Field(ge=1, description="J_C over this many past episodes; by default over the iteration's, which lags less"),
    ] = None
    reward_scale_invariance: Annotated[bool, Field(description="weigh the cost by the ratio of gradient norms")] = False
    scale_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.9
    scale_max: Positive = 10.0


class LagrangianSettings(_Constraint):
    """Gradient ascent on the multiplier (Adam), the traditional Lagrangian method."""

    kind: Literal["lagrangian"] = "lagrangian"
    learning_rate: Positive = 0.035
    initial_multiplier: NonNegative = 0.001


class PIDSettings(_Constraint):
    """PID control of the multiplier (Stooke et al. 2020, Algorithm 2)."""

    kind: Literal["pid"] = "pid"
    kp: Annotated[float, Field(ge=0, description="K_P")] = 0.1
    ki: Annotated[float, Field(ge=0, description="K_I; the integral sums J_C - d")] = 0.01
    kd: Annotated[float, Field(ge=0, description="K_D")] = 0.01
    p_smoothing: Annotated[float, Field(ge=0, lt=1, description="share of the old value in P's average")] = 0.0
    d_smoothing: Annotated[float, Field(ge=0, lt=1, description="share of the old value in D's average")] = 0.0
    d_delay: Annotated[int, Field(ge=1, description="iterations that D looks back")] = 1
    initial_multiplier: NonNegative = 0.0
    integral_max: Annotated[float | None, Field(gt=0, description="cap of the integral against windup")] = None


class NoBonus(Section):
    """No intrinsic reward."""

    kind: Literal["none"] = "none"


class LearnerSettings(Section):
    """Where the update runs."""

    learners: Annotated[
        int, Field(ge=0, description="Ray actors that share every minibatch; 0 learns in the driver")
    ] = 0
    gpus_per_learner: Annotated[float, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1, description="torch threads of a learner; more than free cores is slower")] = 1


class RLExperiment(Experiment):
    """A reinforcement-learning experiment; `steps` counts environment steps."""

    SHORTHAND: ClassVar[dict[str, str]] = {"env": "id", "update": "kind", "constraint": "kind", "bonus": "kind"}

    steps: Annotated[int, Field(gt=0, description="environment steps in total")] = 1_000_000
    env: Annotated[EnvironmentSettings, Field(description="the environment, e.g. --env CartPole-v1")]
    rollout: RolloutSettings = RolloutSettings()
    network: NetworkSettings = NetworkSettings()
    advantage: AdvantageSettings = AdvantageSettings()
    update: PPOSettings = PPOSettings()
    constraint: Annotated[NoConstraint | LagrangianSettings | PIDSettings, Field(discriminator="kind")] = NoConstraint()
    bonus: NoBonus = NoBonus()
    learner: LearnerSettings = LearnerSettings()

    @model_validator(mode="after")
    def _normalization_is_resolved(self) -> RLExperiment:
        if self.rollout.normalize_observations == "auto":
            kind = "shrink" if has_lidars(self.env.id) else "standardize"
            object.__setattr__(self, "rollout", self.rollout.model_copy(update={"normalize_observations": kind}))
        return self

    @model_validator(mode="after")
    def _batch_holds_a_minibatch(self) -> RLExperiment:
        if self.update.minibatch_size > self.rollout.batch_size:
            raise ValueError(
                f"update.minibatch_size: expected at most rollout.batch_size ({self.rollout.batch_size}), "
                f"got {self.update.minibatch_size}"
            )
        return self
