"""Evaluation of learned initial weights on test tasks, as in the paper's tables.

A test task is learned by `evaluation.steps` inner steps, and one held-out image of each class is classified. Batch
statistics are part of the network, so it matters what is in a batch: *transductive* evaluation sends all
held-out images through at once; otherwise each goes by itself, together with the support images. The inner
optimizer begins with the state that slot 0 had in training, as the published code does with its only one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from quadriga.metalearn.experiment import MetaExperiment
from quadriga.metalearn.pools import LocalPool, Pool, RayPool
from quadriga.metalearn.trainer import CHECKPOINT, slot_state, trial
from quadriga.platform.errors import UserError
from quadriga.platform.experiment import validate
from quadriga.platform.lines import EvaluationRequest

EVALUATION = 2
"""Beside the seed in the random streams of evaluations: no report made while training is repeated."""


def evaluate(experiment: MetaExperiment, checkpoint: Path, request: EvaluationRequest) -> Mapping[str, Sequence[float]]:
    """Learns `request.episodes` test tasks.

    `request.options` may hold `transductive` (by default both ways), `workers` (Ray actors, 0 for none), `data_root`,
    and `shots`, `steps` and `batch_size` in place of the experiment's.

    Returns:
        One value a task: `accuracy_transductive` and `accuracy`, the shares of held-out images that were
        right; for regression `loss_before` and `loss` of the query points.

    Raises:
        UserError: a film is asked for, or there are no data.
    """
    if request.video is not None:
        raise UserError("--video: there is nothing to film in a meta-learning run; see: quadriga meta plot")
    options = dict(request.options)
    transductive, workers = options.pop("transductive", None), int(options.pop("workers", 0))
    data_root = options.pop("data_root", None)
    fields = experiment.model_dump(mode="json")
    fields["evaluation"] |= {name: value for name, value in options.items() if value is not None}
    fields["task"] |= {"data_root": data_root} if data_root else {}
    fields["compute"] |= {"workers": workers}
    fields["update"] |= {"meta_batch": max(workers, 1)}  # a worker has a slot at least
    experiment = validate(MetaExperiment, fields)
    with np.load(checkpoint / CHECKPOINT) as kept:
        phi, states = np.array(kept["phi"]), [slot_state(kept, 0)] * experiment.update.meta_batch
    pool: Pool = RayPool(experiment) if workers else LocalPool(experiment)
    try:
        if states[0]:
            pool.load(states)
        wanted = trial(
            experiment,
            (request.seed, EVALUATION),
            request.episodes,
            transductive=transductive is not False,
            separate=transductive is not True,
        )
        return pool.test(phi, wanted)
    finally:
        pool.stop()
