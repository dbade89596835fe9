"""Meta-learning under a real Ray Tune."""

import numpy as np
import pytest

from quadriga.metalearn.trainer import CHECKPOINT, MetaTrainer
from quadriga.metalearn.tune import trainable
from quadriga.platform import experiment as experiments
from quadriga.platform.errors import UserError

POINT = {
    "preset": "sine",
    "steps": 20,
    "report_every": 10,
    "task": {"kind": "sine", "hidden": [8]},
    "evaluation": {"tasks": 3},
}


@pytest.mark.slow
def test_tune_searches_over_fields_of_the_experiment(ray_session, tmp_path):
    from ray import tune

    space = {**POINT, "inner": {"learning_rate": tune.grid_search([0.001, 0.02])}}
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(metric="query_loss", mode="min", max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    assert len(results) == 2 and not results.errors
    for result in results:
        assert result.metrics["meta_iterations"] == 20
        point = experiments.build({**POINT, "inner": result.config["inner"]})
        alone = MetaTrainer(point)
        alone.train_iteration()
        alone.train_iteration()
        with result.checkpoint.as_directory() as folder, np.load(f"{folder}/{CHECKPOINT}") as kept:
            np.testing.assert_array_equal(kept["phi"], alone.phi)


def test_a_point_of_another_line_of_work_is_refused():
    with pytest.raises(UserError, match="'ppo' is no meta-learning preset"):
        trainable({"preset": "ppo", "env": "CartPole-v1"})
