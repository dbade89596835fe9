"""Evaluation of a trained run: plays a checkpoint and says how sure the result is.

The playing is the line's; here a checkpoint is chosen, the samples become means with intervals,
and the result is kept in the run folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quadriga.platform.checkpoints import Checkpoint
from quadriga.platform.errors import UserError
from quadriga.platform.lines import EvaluationRequest, line_of
from quadriga.platform.progress import json_line
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.statistics import Interval, mean_interval
from quadriga.platform.writer_lock import writing

EVALUATIONS = "evaluation.json"
LOCK = ".evaluation"
"""Whose holder adds a result: several may evaluate a run at once, also while it is trained."""
WAIT_S = 60.0
LEVEL = 0.95


@dataclass(frozen=True)
class Evaluation:
    """The result of playing one checkpoint.

    Attributes:
        run: the run's name.
        checkpoint: `latest` or `best`.
        step: the run's progress when that checkpoint was saved.
        request: how it was played; the path of its video is absolute.
        samples: one value an episode for each measure, e.g. `return`, `cost`, `length`.
        intervals: mean and 95% interval (Student's t) of each measure.
        video_sha256: of the video's file, by which others know it again; empty without one.
    """

    run: str
    checkpoint: str
    step: int
    request: EvaluationRequest
    samples: Mapping[str, Sequence[float]]
    intervals: Mapping[str, Interval]
    video_sha256: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data: what `evaluation.json` and `quadriga evaluate --json` hold."""
        request = self.request
        fields = {
            "run": self.run,
            "checkpoint": self.checkpoint,
            "step": self.step,
            "episodes": request.episodes,
            "seed": request.seed,
            "deterministic": request.deterministic,
            "video": None if request.video is None else str(request.video),
            **({"video_sha256": self.video_sha256} if self.video_sha256 else {}),
            **({"options": dict(request.options)} if request.options else {}),
            "level": LEVEL,
            **{name: interval._asdict() for name, interval in self.intervals.items()},
            "samples": {name: list(values) for name, values in self.samples.items()},
        }
        plain: dict[str, Any] = json.loads(json_line(fields))
        return plain


def evaluate(run: RunFolder, request: EvaluationRequest, *, checkpoint: str = "latest") -> Evaluation:
    """Plays a checkpoint of `run` and adds the result to its `evaluation.json`.

    Args:
        run: the run; its checkpoints stay as they are.
        request: episodes, seed, deterministic or not, video file.
        checkpoint: `latest` (where training stands) or `best` (the highest score while training,
            which flatters a noisy run).

    Raises:
        UserError: no such checkpoint, the request cannot be met, or `evaluation.json` is damaged.
    """
    if request.episodes < 1:
        raise UserError(f"episodes: expected at least 1, got {request.episodes}")
    evaluations(run)  # damaged ones are told of now, not when all is played
    if request.video is not None:
        request = replace(request, video=request.video.absolute())
    experiment = run.experiment()
    line = line_of(experiment)
    chosen = chosen_checkpoint(run, checkpoint)
    with chosen.local() as folder:
        samples = line.evaluate(experiment, folder, request)
    intervals = {name: mean_interval(values, LEVEL) for name, values in samples.items()}
    film = "" if request.video is None else sha256_of(request.video)
    result = Evaluation(run.name, checkpoint, chosen.step, request, samples, intervals, film)
    with writing(run.local_path(""), f"{EVALUATIONS} of {run.path!r} is being written", wait=WAIT_S, lock=LOCK):
        run.write_text(EVALUATIONS, json.dumps([*evaluations(run), result.as_json()], indent=1) + "\n")
    return result


def sha256_of(file: Path) -> str:
    """The checksum of a file's content, in hexadecimal; empty if there is no such file."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def chosen_checkpoint(run: RunFolder, checkpoint: str) -> Checkpoint:
    """The `latest` or the `best` whole checkpoint of a run.

    Raises:
        UserError: there is none, or another word.
    """
    if checkpoint not in ("latest", "best"):
        raise UserError(f"checkpoint: expected latest or best, got {checkpoint!r}")
    chosen = run.checkpoints.latest() if checkpoint == "latest" else run.checkpoints.best()
    if chosen is None:
        scored = " with a score" if checkpoint == "best" else ""
        raise UserError(f"run {run.path!r} has no whole checkpoint{scored}")
    return chosen


def evaluations(run: RunFolder) -> list[dict[str, Any]]:
    """All earlier results of `evaluate`, oldest first.

    Raises:
        UserError: the file is damaged.
    """
    if not run.exists(EVALUATIONS):
        return []
    try:
        earlier = json.loads(run.read_text(EVALUATIONS))
    except json.JSONDecodeError as error:
        raise UserError(f"{run.path}/{EVALUATIONS} is damaged ({error}); move it away to go on") from None
    if not isinstance(earlier, list):
        raise UserError(f"{run.path}/{EVALUATIONS} is damaged: expected a list; move it away to go on")
    return earlier
