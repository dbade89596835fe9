"""pass@k over a sweep of temperatures: samples, verdicts and the best temperature for each k.

Chen et al. 2021, section 3.3: the best temperature grows with k, for with many tries diversity
pays. Each temperature has its own files in one folder, so a sweep goes on where it was stopped and
further temperatures can be added to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quadriga.codegen.estimators import PassAtK
from quadriga.platform.errors import UserError

SUMMARY = "pass_at_k.json"
PICTURE = "pass_at_k.png"
STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Point:
    """One temperature.

    Attributes:
        temperature: of the samples.
        pass_at_k: by k.
        samples: how many were judged.
    """

    temperature: float
    pass_at_k: Mapping[int, PassAtK]
    samples: int


def temperatures(text: str) -> tuple[float, ...]:
    """Temperatures as they are given on the command line, in order.

    Raises:
        UserError: not numbers, or one twice.
    """
    try:
        found = tuple(sorted(float(part) for part in text.split(",")))
    except ValueError:
        raise UserError(f"--temperatures: expected numbers such as 0.2,0.8, got {text!r}") from None
    if len(set(found)) < len(found):
        raise UserError(f"--temperatures: one of {text} is there twice")
    return found


def samples_path(folder: Path, temperature: float) -> Path:
    """Where the samples of a temperature are."""
    return folder / f"T{temperature:g}.jsonl"


def curve_ks(samples: int) -> tuple[int, ...]:
    """1, 2, 5, 10, ... up to the number of samples, which is among them."""
    found = {step * 10**power for power in range(len(str(samples))) for step in STEPS}
    return tuple(sorted({k for k in found if k < samples} | {samples}))


def best(points: Sequence[Point]) -> dict[int, Point]:
    """The temperature with the highest pass@k, by k; the lowest of equal ones."""
    ks = sorted({k for point in points for k in point.pass_at_k})
    return {
        k: max(
            (point for point in points if k in point.pass_at_k),
            key=lambda point: (point.pass_at_k[k].estimate, -point.temperature),
        )
        for k in ks
    }


def as_json(points: Sequence[Point], model: Mapping[str, Any]) -> dict[str, Any]:
    """For programs; `model` says what was evaluated."""
    rows = [
        {
            "temperature": point.temperature,
            "samples": point.samples,
            "pass_at_k": {str(k): value.estimate for k, value in point.pass_at_k.items()},
            "intervals": {str(k): [value.low, value.high] for k, value in point.pass_at_k.items()},
        }
        for point in points
    ]
    chosen = {str(k): point.temperature for k, point in best(points).items()}
    return {**model, "temperatures": rows, "best_temperature": chosen}


def write(folder: Path, points: Sequence[Point], model: Mapping[str, Any]) -> None:
    """Writes `pass_at_k.json`.

    Raises:
        UserError: the disk is full or gone.
    """
    try:
        text = json.dumps(as_json(points, model), indent=1, allow_nan=True) + "\n"
        (folder / SUMMARY).write_text(text, encoding="ascii")
    except OSError as error:
        raise UserError(f"{folder / SUMMARY}: cannot be written: {error.strerror}") from error
