"""The published settings by name.

Reptile: the commands "used for the paper" in the repository of Nichol, Achiam, Schulman 2018 (arXiv:1803.02999), which
are those of its appendix A; every one ran 5 tasks a meta-iteration with the meta step falling linearly from 1 to 0, and
was tested on 10,000 tasks.

MAML and first-order MAML: Finn, Abbeel, Levine 2017 (arXiv:1703.03400), appendix A.1, which gives inner step sizes
and counts, tasks of a meta-batch, the 15 queries of Mini-ImageNet and 60,000 meta-iterations. From the code published
with it (`main.py` of cbfinn/maml, commit 007d776): Adam at 0.001, losses averaged, as many queries as support images on
Omniglot. That code differs from the paper in its usage notes (4 tasks also for Mini-ImageNet 5-shot, 40,000
meta-iterations on Omniglot), reports every count of steps up to 10 on 600 test tasks, and clips gradients on
Mini-ImageNet to +-10, which is not done here.
"""

from __future__ import annotations

from typing import Any

from quadriga.platform.lines import Preset

REPTILE = "Nichol, Achiam, Schulman 2018, arXiv:1803.02999"
MAML = "Finn, Abbeel, Levine 2017, arXiv:1703.03400"

Fields = dict[str, Any]


def _reptile_omniglot(ways: int, shots: int) -> Preset:
    many = ways == 20
    batch = 20 if many else 10
    fields: Fields = {
        "steps": 200_000 if many else 100_000,
        "task": {"kind": "omniglot", "ways": ways},
        "inner": {
            "learning_rate": 5e-4 if many else 1e-3,
            "batch_size": batch,
            "steps": 10 if many else 5,
            "shots": 10,
        },
        "update": {"kind": "reptile", "meta_batch": 5, "step_size": 1.0, "final_step_size": 0.0},
        "evaluation": {"shots": shots, "steps": 50, "batch_size": 10 if many else 5},
    }
    return Preset(f"Reptile on Omniglot, {ways}-way {shots}-shot", REPTILE, fields)


def _reptile_mini_imagenet(shots: int) -> Preset:
    fields: Fields = {
        "steps": 100_000,
        "task": {"kind": "mini-imagenet", "ways": 5},
        "inner": {"learning_rate": 1e-3, "batch_size": 10, "steps": 8, "shots": 15},
        "update": {"kind": "reptile", "meta_batch": 5, "step_size": 1.0, "final_step_size": 0.0},
        "evaluation": {"shots": shots, "steps": 50, "batch_size": 5 if shots == 1 else 15},
    }
    return Preset(f"Reptile on Mini-ImageNet, 5-way {shots}-shot", REPTILE, fields)


def _maml(algorithm: str, data: str, ways: int, shots: int) -> Preset:
    """One outer step of Adam 0.001 on the queries' loss; all of the support is one batch."""
    if data == "omniglot":
        rate, steps, tested, queries, batch = (0.4, 1, 3, shots, 32) if ways == 5 else (0.1, 5, 5, shots, 16)
    else:
        rate, steps, tested, queries, batch = 0.01, 5, 10, 15, 4 if shots == 1 else 2
    fields: Fields = {
        "steps": 60_000,
        "task": {"kind": data, "ways": ways},
        "inner": {
            "optimizer": "sgd",
            "learning_rate": rate,
            "reduction": "mean",
            "batch_size": ways * shots,
            "steps": steps + 1,
            "shots": shots + queries,
            "tail_shots": queries,
        },
        "update": {
            "kind": algorithm,
            "optimizer": "adam",
            "meta_batch": batch,
            "step_size": 1e-3,
            "final_step_size": 1e-3,
        },
        "evaluation": {"shots": shots, "steps": tested, "batch_size": ways * shots},
    }
    title = {"maml": "MAML", "fomaml": "first-order MAML"}[algorithm]
    name = {"omniglot": "Omniglot", "mini-imagenet": "Mini-ImageNet"}[data]
    return Preset(f"{title} on {name}, {ways}-way {shots}-shot", MAML, fields)


PRESETS: dict[str, Preset] = {
    "sine": Preset(
        "Reptile on sine waves",
        f"{REPTILE}, section 4.1",
        {
            "steps": 30_000,
            "task": {"kind": "sine"},
            "inner": {"optimizer": "sgd", "learning_rate": 0.02, "batch_size": 10, "steps": 5, "shots": 50},
            "update": {"kind": "reptile", "meta_batch": 1, "step_size": 0.1, "final_step_size": 0.0},
            "evaluation": {"shots": 10, "steps": 32, "batch_size": 10, "tasks": 50},
            "report_every": 500,
        },
    ),
    **{
        f"reptile-omniglot-{ways}way-{shots}shot": _reptile_omniglot(ways, shots)
        for ways in (5, 20)
        for shots in (1, 5)
    },
    "reptile-omniglot-hour": Preset(
        "Reptile on Omniglot, 5-way 1-shot, in an hour on two cores",
        f"{REPTILE}; ours: 360,000 tasks instead of 500,000, six at a time",
        {
            **_reptile_omniglot(5, 1).fields,
            "steps": 60_000,
            "update": {"kind": "reptile", "meta_batch": 6, "step_size": 1.0, "final_step_size": 0.0},
            "evaluation": {"shots": 1, "steps": 50, "batch_size": 5, "tasks": 40},
            "compute": {"workers": 2},
            "report_every": 500,
        },
    ),
    **{f"reptile-mini-imagenet-5way-{shots}shot": _reptile_mini_imagenet(shots) for shots in (1, 5)},
    **{
        f"{algorithm}-omniglot-{ways}way-{shots}shot": _maml(algorithm, "omniglot", ways, shots)
        for algorithm in ("fomaml", "maml")
        for ways in (5, 20)
        for shots in (1, 5)
    },
    **{
        f"{algorithm}-mini-imagenet-5way-{shots}shot": _maml(algorithm, "mini-imagenet", 5, shots)
        for algorithm in ("fomaml", "maml")
        for shots in (1, 5)
    },
    "gradient-sums": Preset(
        "sums of inner gradients on Omniglot, 5-way 5-shot",
        f"{REPTILE}, section 6.2",
        {
            "steps": 40_000,
            "task": {"kind": "omniglot", "ways": 5},
            "inner": {"optimizer": "sgd", "learning_rate": 0.003, "batch_size": 25, "steps": 4, "shots": 20},
            "update": {"kind": "gradient-sum", "meta_batch": 1, "step_size": 0.25, "final_step_size": 0.0},
            "evaluation": {"shots": 5, "steps": 5, "batch_size": 25},
        },
    ),
}
