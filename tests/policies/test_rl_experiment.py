from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quadriga.platform.errors import UserError
from quadriga.platform.experiment import build, load, parse_assignments
from quadriga.policies.experiment import (
    CPOSettings,
    LagrangianSettings,
    LearningProgressSettings,
    NoBonus,
    NoConstraint,
    PIDSettings,
    PPOSettings,
    RLExperiment,
    SurprisalSettings,
    TRPOSettings,
    TrustRegionSettings,
    VIMESettings,
)
from quadriga.policies.line import LINE
from quadriga.policies.presets import PRESETS


def rl(preset: str, *assignments: str) -> RLExperiment:
    experiment = load(preset, parse_assignments(["env=CartPole-v1", *assignments]))
    assert isinstance(experiment, RLExperiment)
    return experiment


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_valid_experiment_of_its_own_name(preset: str) -> None:
    experiment = rl(preset)
    assert experiment.preset == preset
    assert build(experiment.model_dump(mode="json")) == experiment


@pytest.mark.parametrize(
    ("id", "kind"),
    [("SafetyPointGoal1-v0", "shrink"), ("SafetyCarCircle2-v0", "shrink"), ("CartPole-v1", "standardize")],
)
def test_normalization_follows_the_environment_unless_it_is_named(id: str, kind: str) -> None:
    assert rl("ppo", f"env={id}").rollout.normalize_observations == kind
    assert rl("ppo", f"env={id}", "rollout.normalize_observations=none").rollout.normalize_observations == "none"


def test_presets_are_what_their_names_say() -> None:
    kinds = {
        preset: (type(rl(preset).update), type(rl(preset).constraint), type(rl(preset).bonus)) for preset in PRESETS
    }
    assert kinds == {
        "ppo": (PPOSettings, NoConstraint, NoBonus),
        "ppo-lagrangian": (PPOSettings, LagrangianSettings, NoBonus),
        "pid-lagrangian": (PPOSettings, PIDSettings, NoBonus),
        "trpo": (TRPOSettings, NoConstraint, NoBonus),
        "trpo-lagrangian": (TRPOSettings, LagrangianSettings, NoBonus),
        "trpo-pid": (TRPOSettings, PIDSettings, NoBonus),
        "cpo": (CPOSettings, TrustRegionSettings, NoBonus),
        "surprisal": (TRPOSettings, NoConstraint, SurprisalSettings),
        "learning-progress": (TRPOSettings, NoConstraint, LearningProgressSettings),
        "vime": (TRPOSettings, NoConstraint, VIMESettings),
        "ppo-surprisal": (PPOSettings, NoConstraint, SurprisalSettings),
        "ppo-learning-progress": (PPOSettings, NoConstraint, LearningProgressSettings),
        "safe-surprisal": (PPOSettings, PIDSettings, SurprisalSettings),
    }


def test_a_rule_put_into_a_preset_has_its_own_defaults_and_leaves_the_constraint() -> None:
    changed = rl("pid-lagrangian", "update.kind=trpo")
    assert changed.update == TRPOSettings()
    assert changed.constraint == rl("pid-lagrangian").constraint
    assert rl("ppo-lagrangian", "update.kind=trpo").constraint == rl("ppo-lagrangian").constraint
    assert rl("ppo-lagrangian", "constraint.kind=pid").constraint == PIDSettings()


def test_cpo_has_a_margin_that_the_paper_s_settings_do_not_have(root: Path) -> None:
    ours, published = rl("cpo").constraint, load(str(root / "examples/safety_gym/cpo.yaml"), {})
    assert isinstance(ours, TrustRegionSettings) and isinstance(published, RLExperiment)
    assert ours.margin_learning_rate == 0.02
    assert published.constraint == TrustRegionSettings(margin_learning_rate=0.0)


def test_presets_of_trpo_fit_their_critics_as_gently_as_those_of_ppo_do() -> None:
    ours, ppo = rl("trpo-pid").update, rl("pid-lagrangian").update
    assert isinstance(ours, TRPOSettings) and isinstance(ppo, PPOSettings)
    assert rl("trpo-lagrangian").update == ours
    assert rl("cpo").update.model_dump(exclude={"kind"}) == ours.model_dump(exclude={"kind"})
    assert (ours.critic_learning_rate, ours.critic_epochs) == (ppo.critic_learning_rate, ppo.epochs)
    assert (ours.critic_minibatch_size, ours.critic_max_grad_norm) == (1000, ppo.max_grad_norm)


@pytest.mark.parametrize(
    ("preset", "assignment", "message"),
    [
        ("cpo", "constraint.kind=pid", "constraint.kind: expected 'trust-region', the only one that update.kind 'cpo'"),
        ("cpo", "update.kind=ppo", "update.kind: expected 'cpo', the only one that constraint.kind 'trust-region'"),
        ("cpo", "advantage.cost=standardize", "advantage.cost: expected 'center' or 'none'"),
        (
            "trpo",
            "update.critic_minibatch_size=1e6",
            "update.critic_minibatch_size: expected at most rollout.batch_size",
        ),
        ("trpo", "update.epochs=4", "unknown key 'update.epochs'; it belongs to update.kind 'ppo'"),
        ("trpo", "update.line_search_decay=1", "update.line_search_decay: expected less than 1, got 1"),
        ("trpo", "update.kind=tppo", "update.kind: expected one of 'ppo', 'trpo', 'cpo', 'custom', got 'tppo'"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_does(preset: str, assignment: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        rl(preset, assignment)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("constraint.cost_limit=-1", "constraint.cost_limit: expected greater than or equal to 0, got -1"),
        ("constraint.kp=fast", "constraint.kp: expected a valid number"),
        ("constraint.kpp=1", "unknown key 'constraint.kpp'; did you mean 'constraint.kp'"),
        ("constraint.kind=pdi", "constraint.kind"),
        ("update.clip=1.5", "update.clip: expected less than 1, got 1.5"),
        ("rollout.batch_size=0", "rollout.batch_size: expected greater than or equal to 1, got 0"),
        ("rollout.env_runner=2", "did you mean 'rollout.env_runners'"),
        ("update.minibatch_size=1e6", "expected at most rollout.batch_size"),
        ("network.hidden_sizes=[]", "network.hidden_sizes"),
        ("advantage.discount=nan", "advantage.discount"),
        ("steps=-5", "steps: expected greater than 0, got -5"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        rl("pid-lagrangian", assignment)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_environment_says_how_to_give_one() -> None:
    with pytest.raises(UserError, match=r"^env: missing \(the environment, e\.g\. --env CartPole-v1\)$"):
        load("ppo")


def test_another_kind_of_constraint_replaces_the_preset_s() -> None:
    constraint = rl("pid-lagrangian", "constraint.kind=lagrangian", "constraint.learning_rate=0.1").constraint
    assert constraint == LagrangianSettings(learning_rate=0.1)


def test_an_unknown_environment_is_refused_before_anything_starts() -> None:
    experiment = load("ppo", {"env": {"id": "SafetyPointGaol1-v0"}})
    with pytest.raises(UserError, match="'SafetyPointGaol1-v0'; did you mean 'SafetyPointGoal1-v0'"):
        LINE.check(experiment)


@pytest.mark.parametrize(
    ("changes", "slots"),
    [({}, 1), ({"rollout": {"env_runners": 3}}, 4), ({"learner": {"learners": 2, "threads": 2}}, 5)],
)
def test_ray_is_asked_for_what_the_run_occupies(changes: dict[str, Any], slots: int) -> None:
    assert LINE.cpus(load("ppo", {"env": "CartPole-v1", **changes})) == slots


def test_the_cost_limit_is_drawn_in_the_cost_s_panel() -> None:
    constrained, free = rl("pid-lagrangian", "constraint.cost_limit=7"), rl("ppo")
    assert LINE.reference(constrained, "episode_cost_mean") == 7
    assert LINE.reference(constrained, "episode_return_mean") is None
    assert LINE.reference(free, "episode_cost_mean") is None
