"""Meta-learning as a function trainable of Ray Tune: a search point is the fields of an experiment.

    tune.Tuner(trainable, param_space={"preset": "sine", "inner": {"learning_rate": tune.loguniform(1e-3, 1e-1)}}, ...)

Every iteration reports its metrics with a checkpoint; a trial that Tune restores goes on where it stood.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quadriga.metalearn.experiment import MetaExperiment
from quadriga.metalearn.trainer import MetaTrainer
from quadriga.platform import experiment as experiments
from quadriga.platform.errors import UserError


def trainable(config: Mapping[str, Any]) -> None:
    """Trains the experiment of `config` from its beginning, or from the trial's checkpoint, to its end.

    Raises:
        UserError: `config` is no meta-learning experiment, or what `MetaTrainer` raises.
    """
    from ray import tune

    experiment = experiments.build(config)
    if not isinstance(experiment, MetaExperiment):
        raise UserError(f"preset {experiment.preset!r} is no meta-learning preset")
    trainer = MetaTrainer(experiment)
    try:
        checkpoint = tune.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                trainer.restore(Path(folder))
        while trainer.done < experiment.steps:
            metrics = trainer.train_iteration()
            with tempfile.TemporaryDirectory() as folder:
                trainer.save(Path(folder))
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
    finally:
        trainer.stop()
