"""Quadriga from Python: train, open runs, use what they learned. As the command line does, with the same names.

from quadriga.platform.api import load_run, train

run = train("ppo", env="CartPole-v1", steps=20_000)
run.metrics.to_pandas()
policy = run.policy()
action = policy(observation)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quadriga.platform import experiment as experiments
from quadriga.platform import run_folder, training
from quadriga.platform.errors import UserError
from quadriga.platform.evaluation import Evaluation, chosen_checkpoint
from quadriga.platform.evaluation import evaluate as play
from quadriga.platform.evaluation import evaluations as earlier_results
from quadriga.platform.experiment import Experiment
from quadriga.platform.lines import EvaluationRequest, Line, line_of
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.run_summary import RunSummary, summarize

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Experiment", "Run", "list_runs", "load_run", "train"]


class Run:
    """A run: its numbers, its experiment, and what it learned.

    Attributes:
        folder: its run folder.
        name: of the folder.
        path: folder or URI.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.name, self.path = folder.name, folder.path

    def __repr__(self) -> str:
        return f"Run({self.path!r})"

    @cached_property
    def experiment(self) -> Experiment:
        """The complete experiment, typed as its line of work has it."""
        return self.folder.experiment()

    @property
    def metrics(self) -> pyarrow.Table:
        """All rows so far, one an iteration; `.to_pandas()` makes a data frame of them, if pandas is there."""
        return RunFolder.open(self.path).metrics.read()

    @property
    def summary(self) -> RunSummary:
        """What it is and how far it is, in a few words."""
        return summarize(RunFolder.open(self.path))

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """All results of `evaluate`, oldest first."""
        return earlier_results(self.folder)

    def policy(self, checkpoint: str = "latest") -> Callable[..., Any]:
        """What the run learned, as a callable on observations.

        Args:
            checkpoint: `latest` or `best`.

        Returns:
            For reinforcement learning `policy(observations, rng=None)`: one observation of the environment, or several
            `[N, ...]`, to actions that the environment takes; the most likely ones, or drawn with `rng` (a
            `numpy.random.Generator`). Normalization is inside. Needs neither Ray nor torch.

        Raises:
            UserError: no such checkpoint, or the line of work has no policies.
        """
        make = _offered(self._line, self._line.policy, "has no policy")
        with chosen_checkpoint(self.folder, checkpoint).local() as folder:
            loaded: Callable[..., Any] = make(self.experiment, folder)
        return loaded

    def export(self, output: str | Path, checkpoint: str = "latest") -> Path:
        """Writes the policy as a file for other programs; its ending says which kind.

        Args:
            output: `.pt` (TorchScript), `.pt2` (torch.export) or `.onnx`.
            checkpoint: `latest` or `best`.

        Raises:
            UserError: no such checkpoint, another ending, a package that is missing, or nothing to export.
        """
        write = _offered(self._line, self._line.export, "cannot be exported")
        with chosen_checkpoint(self.folder, checkpoint).local() as folder:
            write(self.experiment, folder, Path(output))
        return Path(output)

    def evaluate(
        self,
        episodes: int = 20,
        *,
        seed: int = 0,
        deterministic: bool = True,
        checkpoint: str = "latest",
        video: str | Path | None = None,
        **options: Any,
    ) -> Evaluation:
        """Plays a checkpoint and adds the result to the run's `evaluation.json`.

        Args:
            episodes: episodes or tasks to play.
            seed: of the episodes and the actions.
            deterministic: the most likely actions, or sampled ones.
            checkpoint: `latest` or `best`.
            video: film of the first episode, `.mp4` or `.gif`.
            options: the line of work's own, e.g. meta-learning's `transductive`.

        Raises:
            UserError: no such checkpoint, or the request cannot be met.
        """
        film = None if video is None else Path(video)
        request = EvaluationRequest(episodes, seed, deterministic, film, options)
        return play(self.folder, request, checkpoint=checkpoint)

    def resume(self, steps: int | None = None, *, progress: str = "auto", address: str | None = None) -> Run:
        """Continues training from the newest whole checkpoint, to `steps` in all.

        Raises:
            UserError: no checkpoint, or nothing left to do.
        """
        return Run(training.resume(self.path, steps=steps, progress=progress, address=address))

    def report(self, output: str | Path) -> Path:
        """Writes a report about the run, one HTML file."""
        from quadriga.platform.report import write_report

        return write_report([self.path], Path(output))

    @cached_property
    def _line(self) -> Line:
        return line_of(self.experiment)


def train(
    source: str | Experiment,
    *,
    runs_dir: str = "runs",
    progress: str = "auto",
    address: str | None = None,
    **fields: Any,
) -> Run:
    """Trains in a new run folder and returns the run.

    Args:
        source: a preset, an experiment file, or an experiment.
        runs_dir: folder or URI that gets the run folder.
        progress: `auto`, `live`, `plain`, `json` or `quiet`.
        address: the Ray cluster to join; by default that of `RAY_ADDRESS`, else a local Ray is started.
        fields: what differs, as in an experiment file: `env="CartPole-v1"`, `update={"epochs": 4}`.

    Raises:
        UserError: a field or value that does not exist, or anything else that can be put right.
        TrainingStopped: training could not go on; the last checkpoint stands.
    """
    if isinstance(source, Experiment):
        base = source.model_dump(mode="json")
        chosen = experiments.build(experiments.merged(base, fields)) if fields else source
    else:
        chosen = experiments.load(source, fields)
    return Run(training.train(chosen, runs_dir=runs_dir, progress=progress, address=address))


def load_run(run: str | Path, runs_dir: str = "runs") -> Run:
    """A run, by its name in `runs_dir`, or its path or URI.

    Raises:
        UserError: no such run; names the nearest.
    """
    return Run(RunFolder.open(str(run), runs_dir))


def list_runs(runs_dir: str = "runs") -> list[Run]:
    """All runs in a folder or URI, by name."""
    return [Run(RunFolder.open(name, runs_dir)) for name in run_folder.list_runs(runs_dir)]


def _offered(line: Line, what: Callable[..., Any] | None, said: str) -> Callable[..., Any]:
    if what is None:
        raise UserError(f"what a run of the line of work {line.name!r} learned {said}")
    return what
