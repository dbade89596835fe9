"""Accuracies of the literature that a run can be held against.

"On First-Order Meta-Learning Algorithms" (Nichol, Achiam, Schulman 2018, arXiv:1803.02999), tables 1 and 2, the rows
"+ Transduction"; those of MAML and first-order MAML are by Finn, Abbeel, Levine (2017, arXiv:1703.03400), as quoted
there.
"""

from __future__ import annotations

from collections.abc import Mapping

from quadriga.metalearn.experiment import MetaExperiment, MiniImageNetSettings, OmniglotSettings

_PAPERS = {"reptile": "Nichol et al. 2018", "fomaml": "first-order MAML, Finn et al. 2017", "maml": "Finn et al. 2017"}

# In percent, by data set and (ways, shots).
_ACCURACIES: Mapping[str, Mapping[str, Mapping[tuple[int, int], float]]] = {
    "omniglot": {
        "reptile": {(5, 1): 97.68, (5, 5): 99.48, (20, 1): 89.43, (20, 5): 97.12},
        "fomaml": {(5, 1): 98.3, (5, 5): 99.2, (20, 1): 89.4, (20, 5): 97.9},
        "maml": {(5, 1): 98.7, (5, 5): 99.9, (20, 1): 95.8, (20, 5): 98.9},
    },
    "mini-imagenet": {
        "reptile": {(5, 1): 49.97, (5, 5): 65.99},
        "fomaml": {(5, 1): 48.07, (5, 5): 63.15},
        "maml": {(5, 1): 48.70, (5, 5): 63.11},
    },
}


def published(experiment: MetaExperiment, metric: str) -> dict[str, float]:
    """Shares by source for the transductive accuracy on test tasks; empty for another metric or setting."""
    task, kind = experiment.task, experiment.update.kind
    if metric != "query_accuracy" or not isinstance(task, OmniglotSettings | MiniImageNetSettings):
        return {}
    accuracy = _ACCURACIES[task.kind].get(kind, {}).get((task.ways, experiment.evaluation.shots))
    return {} if accuracy is None else {f"{_PAPERS[kind]}, transductive": accuracy / 100}
