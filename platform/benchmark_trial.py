"""One trial of a benchmark: an ordinary run, by a name that says what it is, as a task on Ray.

Its placement group holds all that its run occupies (driver, runners, learners), so that a trial that starts can finish.
Which trials there are and when each runs, `benchmark` decides.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quadriga.platform import experiment as experiments
from quadriga.platform import occupancy, storage, training
from quadriga.platform.errors import TrainingInterrupted, UserError, one_line
from quadriga.platform.experiment import Experiment
from quadriga.platform.lines import line_of
from quadriga.platform.run_folder import EXPERIMENT, RunFolder

ENDING_S = 60.0
"""How long a trial waits for the process of an earlier attempt: one whose benchmark was killed lives on for seconds."""


@dataclass(frozen=True)
class Trial:
    """A variant on a task with a seed, and the experiment that this makes."""

    variant: str
    task: str
    experiment: Experiment

    @property
    def name(self) -> str:
        """Of its run folder."""
        return trial_name(self.variant, self.task, self.experiment.seed)

    @property
    def slots(self) -> int:
        """CPU slots that its run occupies at once."""
        return 1 + line_of(self.experiment).actor_slots(self.experiment)


def trial_name(variant: str, task: str, seed: int) -> str:
    """The name of a trial's run folder."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", f"{variant}-{task}-seed{seed}").lstrip("._+-")


def is_finished(run: RunFolder, steps: int) -> bool:
    """Whether the run's newest checkpoint stands at its end.

    Raises:
        UserError: its checkpoints cannot be read.
    """
    checkpoint = run.checkpoints.latest()
    return checkpoint is not None and checkpoint.step >= steps


def require_same(run: RunFolder, experiment: Experiment) -> None:
    """A trial goes on as it was begun; only longer.

    Raises:
        UserError: the run has other settings, or is longer.
    """
    known = run.experiment()
    before, now = (
        each.model_dump(mode="json", exclude={"name", "steps", "checkpoint"}) for each in (known, experiment)
    )
    if before != now:
        flat, other = experiments.flattened(before), experiments.flattened(now)
        differing = [key for key in {**flat, **other} if flat.get(key) != other.get(key)]
        said = ", ".join(f"{key}: {flat.get(key)} there, {other.get(key)} now" for key in sorted(differing)[:3])
        raise UserError(f"{run.path} was begun with other settings ({said}); give another --name")
    if known.steps > experiment.steps:
        raise UserError(
            f"{run.path} was begun with {known.steps:,} steps, more than {experiment.steps:,}; ask for as many, "
            "or give another --name"
        )


def start(trial: Trial, runs_dir: str) -> tuple[Any, Any]:
    """The reference of the trial's task and its placement group; Ray begins it when the group has its resources."""
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group(occupancy.bundles(trial.experiment))
    strategy = PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    # A process of its own for each trial: nothing of one is left for the next.
    task = ray.remote(num_cpus=1, max_retries=0, max_calls=1)(train_or_continue)
    fields = trial.experiment.model_dump(mode="json")
    return task.options(scheduling_strategy=strategy, name=trial.name).remote(fields, runs_dir, sys.argv), group


def outcome(reference: Any) -> tuple[str, str] | None:
    """What `train_or_continue` returned, or what Ray says of its process, in the same form."""
    import ray

    try:
        problem: tuple[str, str] | None = ray.get(reference)
        return problem
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {one_line(error).split('. ')[0]}", traceback.format_exc()


def train_or_continue(fields: Mapping[str, Any], runs_dir: str, argv: Sequence[str]) -> tuple[str, str] | None:
    """Trains the experiment of `fields` in `runs_dir`, from its newest checkpoint if it has one.

    Args:
        fields: of the experiment, its name among them.
        runs_dir: folder or URI of the trials.
        argv: the command, for the run's provenance.

    Returns:
        `None` if it reached its end, else one line that says why not, and a traceback (empty for an error of the user).
    """
    sys.argv = list(argv)
    try:
        experiment = experiments.build(fields)
        assert experiment.name is not None
        run = RunFolder.claim(runs_dir, experiment.name)
        with run.writing(wait=ENDING_S):
            checkpoint = run.checkpoints.latest() if run.exists(EXPERIMENT) else None
            if checkpoint is None:
                run.remove()  # it ended before its first checkpoint, or never began
        if checkpoint is None:
            folder = RunFolder.claim(runs_dir, experiment.name)
            training.train(experiment, folder=folder, progress="quiet")
        elif checkpoint.step < experiment.steps:
            location = storage.join(runs_dir, experiment.name)
            training.resume(location, steps=experiment.steps, progress="quiet")
    except (UserError, TrainingInterrupted) as error:
        return one_line(error), ""
    except Exception as error:
        return f"{type(error).__name__}: {one_line(error)}", traceback.format_exc()
    return None
