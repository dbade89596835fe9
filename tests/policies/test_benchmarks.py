"""The Safety Gym benchmark's declaration: its tasks, units and what is published."""

from __future__ import annotations

import json

import numpy as np
import pytest

from quadriga.platform import experiment as experiments
from quadriga.platform.benchmark import choose_variants, grid
from quadriga.platform.environments.registry import list_environments
from quadriga.platform.experiment import flattened
from quadriga.policies.benchmarks import BENCHMARKS, normalise, unconstrained
from quadriga.policies.line import LINE

SAFETY_GYM = BENCHMARKS["safety-gym"]


def test_every_task_of_every_suite_exists():
    known = {row.id for row in list_environments()}
    assert [task for suite in SAFETY_GYM.suites.values() for task in suite.tasks if task not in known] == []
    sizes = {name: len(set(suite.tasks)) for name, suite in SAFETY_GYM.suites.items()}
    assert sizes == {"sg1": 9, "sg6": 6, "sg18": 18, "velocity": 6}


def test_every_algorithm_of_the_suites_is_an_experiment_with_the_same_batches():
    suite = SAFETY_GYM.suites["sg6"]
    trials = grid(LINE, SAFETY_GYM, choose_variants(LINE, suite, []), ["SafetyPointGoal1-v0"], [0], 1000)
    assert [trial.variant for trial in trials] == [
        "ppo", "trpo", "ppo-lagrangian", "trpo-lagrangian", "pid-lagrangian", "trpo-pid", "cpo",
    ]  # fmt: skip
    assert {trial.experiment.rollout.batch_size for trial in trials} == {20_000}
    assert {trial.experiment.constraint.cost_limit for trial in trials if trial.variant not in ("ppo", "trpo")} == {25}


def test_algorithms_of_the_velocity_tasks_differ_in_their_update_and_constraint_alone():
    suite = SAFETY_GYM.suites["velocity"]
    trials = grid(LINE, SAFETY_GYM, choose_variants(LINE, suite, []), suite.tasks, [0], 1000)
    assert {trial.variant for trial in trials} == set(SAFETY_GYM.suites["sg1"].variants)
    for rule, section in (("", "rollout"), ("", "network"), ("ppo", "update"), ("trpo", "update")):
        of_rule = [trial.experiment for trial in trials if rule in ("", trial.experiment.update.kind)]
        assert len({getattr(experiment, section).model_dump_json() for experiment in of_rule}) == 1, (rule, section)


def test_the_example_of_a_velocity_task_is_the_suite_s_pid_lagrangian(root):
    example = experiments.load(str(root / "examples/safe_rl/pid_lagrangian_half_cheetah_velocity.yaml"), {})
    chosen = choose_variants(LINE, SAFETY_GYM.suites["velocity"], ["pid-lagrangian"])
    (trial,) = grid(LINE, SAFETY_GYM, chosen, [example.env.id], [example.seed], example.steps)
    assert trial.experiment.model_dump(exclude={"name"}) == example.model_dump(exclude={"name"})


@pytest.mark.parametrize("name", BENCHMARKS["pid-paper"].suites)
def test_every_experiment_of_the_pid_paper_varies_what_its_curve_is_drawn_against(name):
    benchmark = BENCHMARKS["pid-paper"]
    suite = benchmark.suites[name]
    trials = grid(LINE, benchmark, choose_variants(LINE, suite, []), suite.tasks, [0], 1000)
    fields = [flattened(trial.experiment.model_dump(mode="json")) for trial in trials]
    differing = {key for key in fields[0] if len({repr(each[key]) for each in fields}) > 1} - {"name"}
    others = {"gains": {"constraint.kp"}, "reward-scale": {"constraint.reward_scale_invariance"}}.get(name, set())
    assert differing == {suite.axis} | others
    assert len({repr([each[key] for key in sorted(differing)]) for each in fields}) == len(trials)
    assert len({trial.name for trial in trials}) == len(trials)


def test_the_violation_is_the_mean_excess_over_all_iterations():
    columns = {"episode_cost_mean": np.array([np.nan, 20.0, 35.0, 45.0])}
    assert BENCHMARKS["pid-paper"].measures["violation"].of(columns, "env_steps") == 10


def test_metrics_are_normalised_by_unconstrained_ppo():
    # 2 * 25.179, half of the excess 53.109 - 25, a tenth of 0.063
    measures = {"return": 50.358, "cost": 39.0545, "cost_rate": 0.0063}
    assert normalise("SafetyPointGoal1-v0", measures) == pytest.approx({"return": 2, "cost": 0.5, "cost_rate": 0.1})
    assert normalise("SafetyPointGoal1-v0", measures | {"cost": 24.0})["cost"] == 0


def test_velocity_tasks_have_omnisafes_ppo_as_their_unit_and_no_cost_rate():
    measures = {"return": 6921.83, "cost": 25.0, "cost_rate": 0.5}
    assert normalise("SafetyHalfCheetahVelocity-v1", measures) == pytest.approx({"return": 1, "cost": 0})
    assert normalise("CartPole-v1", measures) == {}


def test_the_package_holds_the_published_numbers(shared_data):
    scores = json.loads((shared_data / "safety_gym_scores.json").read_text())["scores"]
    assert all(unconstrained(task) == score for task, score in scores.items())
    published = json.loads((shared_data / "published_results.json").read_text())["omnisafe_on_policy"]["results"]
    (omnisafe,) = SAFETY_GYM.published
    assert {task: set(algorithms) for task, algorithms in omnisafe.results.items()} == {
        task: set(algorithms) for task, algorithms in published.items()
    }
    assert all(
        tuple(numbers) == omnisafe.results[task][algorithm][measure]
        for task, algorithms in published.items()
        for algorithm, measures in algorithms.items()
        for measure, numbers in measures.items()
    )


def test_a_run_is_held_against_the_same_preset_on_the_same_task():
    known = experiments.build({"preset": "trpo-pid", "env": "SafetyPointGoal1-v0"})
    assert LINE.published(known, "episode_return_mean") == {"OmniSafe's trpo-pid, 10M steps": 19.24}
    assert LINE.published(known, "episode_cost_mean") == {"OmniSafe's trpo-pid, 10M steps": 21.38}
    assert LINE.published(known, "kl") == {}
    unknown = experiments.build({"preset": "trpo-pid", "env": "CartPole-v1"})
    assert LINE.published(unknown, "episode_return_mean") == {}
