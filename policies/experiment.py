"""The reinforcement-learning experiment: update rule x constraint x bonus on an environment.

Every field says what it is in its description; `quadriga list presets` names the published
combinations. Only settings live here; what they configure is in the modules of the same names.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from quadriga.platform.environments.safety_tasks import has_lidars
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.environments.sparse_tasks import is_ram
from quadriga.platform.experiment import Experiment, Section
from quadriga.platform.rollouts.settings import RolloutSettings

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Unit = Annotated[float, Field(ge=0, le=1)]


class NetworkSettings(Section):
    """Policy and critics: multilayer perceptrons of one shape, no weights shared."""

    kind: Literal["mlp"] = "mlp"
    hidden_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"
    initial_log_std: Annotated[float, Field(description="of a Gaussian policy, the same in every dimension")] = -0.5
    final_log_std: Annotated[
        float | None, Field(description="goes there on a line over the run's steps instead of being learned")
    ] = None


class LSTMSettings(Section):
    """A recurrent policy, and recurrent critics that share everything but their heads; learned over sequences."""

    kind: Literal["lstm"] = "lstm"
    hidden_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(description="layers between observation and LSTM; may be none")
    ] = (64,)
    activation: Literal["tanh", "relu"] = "tanh"
    units: Annotated[int, Field(ge=1, description="of the LSTM")] = 64
    sequence_length: Annotated[
        int, Field(ge=1, description="steps that gradients go back; divides each environment's share of the batch")
    ] = 50
    initial_log_std: Annotated[float, Field(description="as of mlp")] = -0.5
    final_log_std: Annotated[float | None, Field(description="as of mlp")] = None


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
    reward_scale: Annotated[
        float,
        Field(gt=0, description="times the reward is what is learned from; returns are reported as they are"),
    ] = 1.0


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


class _SecondOrderSettings(Section):
    target_kl: Annotated[float, Field(gt=0, description="delta: mean KL that a step may reach, nats")] = 0.01
    damping: Annotated[float, Field(ge=0, description="added to the diagonal of the Fisher matrix")] = 0.1
    cg_iterations: Annotated[int, Field(ge=1, description="of conjugate gradient: products with the matrix")] = 15
    fisher_fraction: Annotated[
        float, Field(gt=0, le=1, description="share of the rows, drawn anew each iteration, in the Fisher matrix")
    ] = 1.0
    line_search_steps: Annotated[int, Field(ge=1, description="trials before the old policy stays")] = 15
    line_search_decay: Annotated[float, Field(gt=0, lt=1, description="of the step from trial to trial")] = 0.8
    critic_learning_rate: Positive = 1e-3
    critic_epochs: Annotated[int, Field(ge=1, description="passes of the critics over the batch")] = 10
    critic_minibatch_size: Annotated[int, Field(ge=1, description="over all learners")] = 128
    critic_max_grad_norm: Annotated[float | None, Field(gt=0)] = 0.5


class TRPOSettings(_SecondOrderSettings):
    """Trust region policy optimization (Schulman et al. 2015): a natural gradient step, searched along its line."""

    kind: Literal["trpo"] = "trpo"


class CPOSettings(_SecondOrderSettings):
    """Constrained policy optimization (Achiam et al. 2017): TRPO's step with the cost limit inside its problem."""

    kind: Literal["cpo"] = "cpo"


class CustomUpdateSettings(Section):
    """An update rule of your own; see `quadriga.policies.update_rules`."""

    kind: Literal["custom"] = "custom"
    rule: Annotated[str, Field(description="function of a batch and a context: package.module:function")]
    options: Annotated[dict[str, Any], Field(description="its keyword arguments")] = {}
    learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4


class NoConstraint(Section):
    """Reward alone counts; costs are measured."""

    kind: Literal["none"] = "none"


class _CostLimit(Section):
    cost_limit: Annotated[float, Field(ge=0, description="d: undiscounted cost an episode")] = 25.0
    window: Annotated[
        int | None,
        Field(ge=1, description="J_C over this many past episodes; by default over the iteration's, which lags less"),
    ] = None


class _Weighed(_CostLimit):
    normalize_objective: Annotated[bool, Field(description="(A_R - lambda A_C) / (1 + lambda)")] = True
    reward_scale_invariance: Annotated[bool, Field(description="weigh the cost by the ratio of gradient norms")] = False
    scale_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.9
    scale_max: Positive = 10.0


class _Constraint(_Weighed):
    multiplier_max: Positive = 100.0


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
    d_delay: Annotated[int, Field(ge=1, description="measurements that D looks back")] = 1
    initial_multiplier: NonNegative = 0.0
    integral_max: Annotated[float | None, Field(gt=0, description="cap of the integral against windup")] = None


class TrustRegionSettings(_CostLimit):
    """The update rule itself keeps the cost within its limit: no multiplier. Goes with `update.kind: cpo`."""

    kind: Literal["trust-region"] = "trust-region"
    margin_learning_rate: Annotated[
        float, Field(ge=0, description="of a margin under the limit that sums the excess cost; 0 keeps none")
    ] = 0.0


class CustomConstraintSettings(_Weighed):
    """A controller of the multiplier of your own; see `quadriga.policies.controllers.Controller`."""

    kind: Literal["custom"] = "custom"
    factory: Annotated[str, Field(description="what makes a controller: package.module:class")]
    options: Annotated[dict[str, Any], Field(description="its keyword arguments, besides cost_limit")] = {}


class _ModelSettings(Section):
    likelihood: Annotated[
        Literal["auto", "gaussian", "bits"],
        Field(description="of the next state; bits: of RAM only; auto: bits of RAM, else gaussian"),
    ] = "auto"
    hidden_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"
    replay_size: Annotated[int, Field(ge=1, description="latest transitions kept, over all learners")] = 200_000


class DynamicsSettings(_ModelSettings):
    """The model of the dynamics that a bonus rests on, and how it is fitted after every iteration."""

    ensemble: Annotated[int, Field(ge=1, description="networks, each fitted to rows of its own")] = 1
    optimizer: Annotated[
        Literal["trust-region", "adam"], Field(description="natural gradient within target_kl, or plain Adam")
    ] = "trust-region"
    target_kl: Annotated[float, Field(gt=0, description="kappa: mean KL that an update may reach, nats")] = 1e-3
    updates: Annotated[int, Field(ge=1, description="updates an iteration, each on rows drawn anew")] = 1
    batch_size: Annotated[int, Field(ge=1, description="rows of an update, over all learners")] = 5000
    damping: Annotated[float, Field(ge=0, description="added to the diagonal of the Fisher matrix")] = 1e-4
    cg_iterations: Annotated[int, Field(ge=1, description="of conjugate gradient")] = 10
    fisher_fraction: Annotated[float, Field(gt=0, le=1, description="share of the rows in the Fisher matrix")] = 0.2
    learning_rate: Annotated[float, Field(gt=0, description="of adam")] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, description="alpha of alpha |phi|^2 in the model's loss")] = 0.0


class BayesianSettings(_ModelSettings):
    """The posterior over the parameters of such a model (Houthooft et al. 2016), fitted by Adam."""

    updates: Annotated[int, Field(ge=1, description="steps of Adam an iteration, each on rows drawn anew")] = 50
    batch_size: Annotated[int, Field(ge=1, description="rows of a step, over all learners")] = 500
    learning_rate: Annotated[float, Field(gt=0, description="of adam")] = 3e-3
    prior_std: Annotated[float, Field(gt=0, description="deviation of every parameter before anything is seen")] = 0.5
    initial_std: Annotated[float, Field(gt=0, description="deviation that the fit begins with")] = 0.05
    samples: Annotated[int, Field(ge=2, description="draws of the parameters that the gain is estimated from")] = 2
    step: Annotated[float, Field(gt=0, description="lambda: length of the step whose gain is the bonus")] = 1.0


class NoBonus(Section):
    """No intrinsic reward."""

    kind: Literal["none"] = "none"


class BonusSettings(Section):
    """An intrinsic reward, eta times what a model of the dynamics says of a transition."""

    kind: str
    eta: Annotated[float, Field(gt=0, description="eta_0: the bonus weighs eta_0 / max(1, mean |bonus|)")] = 1e-3
    decay: Annotated[Literal["none", "linear"], Field(description="of eta_0, to 0 over the run")] = "none"
    critic: Annotated[
        Literal["own", "shared", "none"],
        Field(description="who learns the bonus's value: a critic of its own, the reward's, nobody"),
    ] = "own"
    episodic: Annotated[bool, Field(description="own critic: whether the bonus's value ends with an episode")] = True
    discount: Annotated[Unit, Field(description="own critic: gamma of the bonus")] = 0.99
    gae_lambda: Annotated[Unit, Field(description="own critic")] = 0.95
    dynamics: _ModelSettings


class _DensityBonusSettings(BonusSettings):
    dynamics: DynamicsSettings = DynamicsSettings()


class SurprisalSettings(_DensityBonusSettings):
    """Surprisal, -log P(s' | s, a) (Achiam & Sastry 2017)."""

    kind: Literal["surprisal"] = "surprisal"


class LearningProgressSettings(_DensityBonusSettings):
    """Learning progress over k iterations' fits of the model (Achiam & Sastry 2017)."""

    kind: Literal["learning-progress"] = "learning-progress"
    k: Annotated[
        int, Field(ge=1, description="iterations between the two models, each with dynamics.updates updates")
    ] = 10


class PredictionErrorSettings(_DensityBonusSettings):
    """Squared error of the predicted change of state, in units of its deviation (Stadie et al. 2015)."""

    kind: Literal["prediction-error"] = "prediction-error"


class VIMESettings(BonusSettings):
    """Information gain about the parameters of a Bayesian model (VIME, Houthooft et al. 2016)."""

    kind: Literal["vime"] = "vime"
    dynamics: BayesianSettings = BayesianSettings()


class LearnerSettings(Section):
    """Where the update runs."""

    learners: Annotated[
        int, Field(ge=0, description="Ray actors that share every minibatch; 0 learns in the driver")
    ] = 0
    gpus_per_learner: Annotated[float, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1, description="torch threads of a learner; more than free cores is slower")] = 1


class RLExperiment(Experiment):
    """A reinforcement-learning experiment; `steps` counts environment steps."""

    SHORTHAND: ClassVar[dict[str, str]] = {
        "env": "id",
        "update": "kind",
        "constraint": "kind",
        "bonus": "kind",
        "network": "kind",
    }

    steps: Annotated[int, Field(gt=0, description="environment steps in total")] = 1_000_000
    env: Annotated[EnvironmentSettings, Field(description="the environment, e.g. --env CartPole-v1")]
    rollout: RolloutSettings = RolloutSettings()
    network: Annotated[NetworkSettings | LSTMSettings, Field(discriminator="kind")] = NetworkSettings()
    advantage: AdvantageSettings = AdvantageSettings()
    update: Annotated[PPOSettings | TRPOSettings | CPOSettings | CustomUpdateSettings, Field(discriminator="kind")] = (
        PPOSettings()
    )
    constraint: Annotated[
        NoConstraint | LagrangianSettings | PIDSettings | TrustRegionSettings | CustomConstraintSettings,
        Field(discriminator="kind"),
    ] = NoConstraint()
    bonus: Annotated[
        NoBonus | SurprisalSettings | LearningProgressSettings | PredictionErrorSettings | VIMESettings,
        Field(discriminator="kind"),
    ] = NoBonus()
    learner: LearnerSettings = LearnerSettings()

    @model_validator(mode="after")
    def _normalization_is_resolved(self) -> RLExperiment:
        if self.rollout.normalize_observations == "auto":
            kind = "shrink" if has_lidars(self.env.id) else "standardize"
            object.__setattr__(self, "rollout", self.rollout.model_copy(update={"normalize_observations": kind}))
        return self

    @model_validator(mode="after")
    def _likelihood_is_resolved(self) -> RLExperiment:
        if isinstance(self.bonus, NoBonus):
            return self
        dynamics, ram = self.bonus.dynamics, is_ram(self.env.id)
        if dynamics.likelihood == "bits" and not ram:
            raise ValueError(
                "bonus.dynamics.likelihood: expected 'gaussian', since only Atari RAM is made of bytes, "
                f"got 'bits' with env.id {self.env.id!r}"
            )
        if dynamics.likelihood == "auto":
            resolved = dynamics.model_copy(update={"likelihood": "bits" if ram else "gaussian"})
            object.__setattr__(self, "bonus", self.bonus.model_copy(update={"dynamics": resolved}))
        return self

    @model_validator(mode="after")
    def _sequences_fill_the_batch(self) -> RLExperiment:
        if not isinstance(self.network, LSTMSettings):
            return self
        rollout, length = self.rollout, self.network.sequence_length
        environments = max(1, rollout.env_runners) * rollout.envs_per_runner
        if rollout.batch_size % (environments * length):
            raise ValueError(
                f"rollout.batch_size: expected a multiple of {environments * length:,} ({environments} environments x "
                f"network.sequence_length {length}), got {rollout.batch_size}"
            )
        if not isinstance(self.bonus, NoBonus):
            raise ValueError(
                "bonus.kind: expected 'none', the only one that network.kind 'lstm' works with, "
                f"got {self.bonus.kind!r}"
            )
        return self

    @model_validator(mode="after")
    def _batch_holds_a_minibatch(self) -> RLExperiment:
        if isinstance(self.update, CustomUpdateSettings):
            return self
        name = "minibatch_size" if isinstance(self.update, PPOSettings) else "critic_minibatch_size"
        size = getattr(self.update, name)
        if size > self.rollout.batch_size:
            raise ValueError(
                f"update.{name}: expected at most rollout.batch_size ({self.rollout.batch_size}), got {size}"
            )
        return self

    @model_validator(mode="after")
    def _cpo_holds_the_limit_itself(self) -> RLExperiment:
        rule, constraint = self.update.kind, self.constraint.kind
        if rule == "cpo" and constraint != "trust-region":
            raise ValueError(
                f"constraint.kind: expected 'trust-region', the only one that update.kind 'cpo' works with, "
                f"got {constraint!r}"
            )
        if constraint == "trust-region" and rule != "cpo":
            raise ValueError(
                f"update.kind: expected 'cpo', the only one that constraint.kind 'trust-region' works with, "
                f"got {rule!r}"
            )
        if rule == "cpo" and self.advantage.cost == "standardize":
            raise ValueError(
                "advantage.cost: expected 'center' or 'none', since update.kind 'cpo' reads them in units of cost, "
                "got 'standardize'"
            )
        return self
