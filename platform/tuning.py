"""Searches on Ray Tune: starts the trials of a `SearchSettings`, takes a killed search up again, and sums it up.

    runs/<name>/search.yaml     what is searched, complete
                tune/           Tune's own state and the trials' checkpoints
                trials/<trial>/ a run folder each
                trials.json     every trial's point, state and result
                best.yaml       the best trial's experiment, ready for `quadriga train`
                search.png      parallel coordinates and learning curves

Nothing here knows a line of work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from quadriga.platform import experiment as experiments
from quadriga.platform import occupancy, search, storage, trial, tuning_interrupts, tuning_table
from quadriga.platform.errors import TrainingInterrupted, UserError
from quadriga.platform.lines import line_of
from quadriga.platform.run_folder import RunFolder
from quadriga.platform.runtime import ensure_ray
from quadriga.platform.search import SearchSettings
from quadriga.platform.training import handle
from quadriga.platform.trial import OBJECTIVE, STEP, TrialSettings
from quadriga.platform.tuning_results import Outcome, TrialResult
from quadriga.platform.tuning_snapshots import TUNE, Snapshots
from quadriga.platform.writer_lock import writing

SEARCH, TRIALS = "search.yaml", "trials"
LOST = "Could not recover from checkpoint as it does not exist"
"""What Tune says of a trial whose checkpoint was replaced after Tune last wrote its state; it begins anew."""

KEPT = 5
"""Checkpoints of a trial; Tune's state, from which a search is resumed, may lag behind by some."""

SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths of data in an experiment mean what they mean here
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials keep run folders
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # see `tuning_interrupts`
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "5",
    "RAY_AIR_NEW_OUTPUT": "0",  # its boxes are printed at any verbosity
}


def tune(
    fields: Mapping[str, Any],
    settings: SearchSettings,
    *,
    name: str | None = None,
    runs_dir: str = "runs",
    progress: str = "auto",
    address: str | None = None,
    worker_output: bool = False,
) -> Outcome:
    """Runs a search in a new folder of `runs_dir`.

    Args:
        fields: the experiment that points change.
        settings: what varies, what is good, which trials end early.
        name: of the search; by default that of its algorithm and task.
        runs_dir: folder or URI; of a cluster of several machines one that all can reach.
        progress: `auto`, `live`, `plain`, `json` or `quiet`.
        address: the Ray cluster to join; by default that of `RAY_ADDRESS`, else a local Ray is started.
        worker_output: shows what Ray and its workers print.

    Raises:
        UserError: a point is not valid, or Ray does not start; nothing was started.
        TrainingInterrupted: SIGINT or SIGTERM; finished trials are kept.
    """
    points = search.check(fields, settings)
    sample = search.experiment_at(fields, points[0] if points else next(search.corners(settings)))
    folder = RunFolder.create(runs_dir, name or _name(sample))
    document = {**fields, "search": settings.model_dump(mode="json", exclude_none=True)}
    folder.write_text(SEARCH, experiments.dump_yaml(document))
    with _alone(folder):
        try:
            return _run(folder, fields, settings, progress, address, worker_output, restore=False)
        except BaseException:
            with contextlib.suppress(UserError):
                if not folder.exists(TUNE):  # nothing was begun
                    folder.remove()
            raise


def resume(
    name: str,
    *,
    runs_dir: str = "runs",
    progress: str = "auto",
    address: str | None = None,
    worker_output: bool = False,
) -> Outcome:
    """Takes a search up where it was: finished trials stay, others go on from their last checkpoints.

    Raises:
        UserError: no such search, or another process runs it; or as `tune`.
        TrainingInterrupted: as `tune`.
    """
    folder = find(name, runs_dir)
    fields, settings = read(folder)
    search.check(fields, settings)
    with _alone(folder):
        return _run(folder, fields, settings, progress, address, worker_output, restore=True)


def find(name: str, runs_dir: str = "runs") -> RunFolder:
    """The folder of a search: its name in `runs_dir`, or its path or URI.

    Raises:
        UserError: there is none.
    """
    is_name = not storage.is_uri(name) and "/" not in name
    location = storage.join(runs_dir, name) if is_name else name.rstrip("/")
    filesystem, root = storage.resolve(location)
    folder = RunFolder(location, filesystem, root)
    if not folder.exists(SEARCH):
        raise UserError(f"no search {name!r}" + (f" in {runs_dir!r}" if is_name else ""))
    return folder


def read(folder: RunFolder) -> tuple[dict[str, Any], SearchSettings]:
    """The experiment's fields and the settings of a search."""
    where = storage.join(folder.path, SEARCH)
    document = experiments.parse_yaml(folder.read_text(SEARCH), where=where)
    section = document.pop("search")
    return document, experiments.validate(SearchSettings, section, prefix=f"{where}: search: ")


def _alone(folder: RunFolder) -> contextlib.AbstractContextManager[None]:
    """Keeps other processes from running the search meanwhile, if it is in a local folder."""
    return writing(folder.local_path(""), f"search {folder.path!r} is being run")


def _run(
    folder: RunFolder,
    fields: Mapping[str, Any],
    settings: SearchSettings,
    progress: str,
    address: str | None,
    worker_output: bool,
    *,
    restore: bool,
) -> Outcome:
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    points = search.points(settings) if settings.searcher == "random" else []
    sample = search.experiment_at(fields, points[0] if points else next(search.corners(settings)))
    line = line_of(sample)
    slots = int(settings.resources.cpus) + line.actor_slots(sample)
    cluster = ensure_ray(address, slots, worker_output=worker_output)
    trials_dir = _absolute(storage.join(folder.path, TRIALS))
    display = tuning_table.make_display(progress, folder.path, settings, str(cluster))
    again = f"resume: quadriga tune --resume {handle(folder)}"
    with _quiet(worker_output), tuning_interrupts.noted() as stop:
        trainable = _trainable(fields, settings, sample, trials_dir)
        begun = restore and folder.exists(f"{TUNE}/tuner.pkl")
        if begun:
            Snapshots(storage.join(folder.path, TUNE)).put_back()
        tuner = _restored(folder, trainable) if begun else _fresh(folder, settings, points, sample, trainable, display)
        display.start()
        try:
            grid = tuner.fit()
            if restore and stop.received is None and any(LOST in str(error) for error in grid.errors):
                tuner = _restored(folder, trainable, restart_errored=True)
                grid = tuner.fit()
        except KeyboardInterrupt:
            raise TrainingInterrupted(stop.received or signal.SIGINT, f"stopped at once; {again}") from None
        finally:
            display.close()
    results = [_result(each, sample.steps, settings, trials_dir) for each in grid]
    ended = display.ended | _ended_before(grid, display)
    results = [dataclasses.replace(each, ended=each.ended or each.name in ended) for each in results]
    finished = [result for result in results if result.ended]
    outcome = Outcome(folder, settings, line, results)
    outcome.write()
    if len(finished) < settings.total:
        raise TrainingInterrupted(
            stop.received or signal.SIGINT,
            f"stopped with {len(finished)} of {settings.total} trials finished; {again}",
        )
    return outcome


def _trainable(fields: Mapping[str, Any], settings: SearchSettings, sample: Any, trials_dir: str) -> Any:
    from ray import tune as ray_tune

    shared = TrialSettings(fields, settings, trials_dir)
    return ray_tune.with_resources(
        ray_tune.with_parameters(trial.run_trial, settings=shared), _placement(sample, settings)
    )


def _restored(folder: RunFolder, trainable: Any, *, restart_errored: bool = False) -> Any:
    """Goes on with unfinished trials; failed ones from their checkpoints, or from their beginnings."""
    from ray import tune as ray_tune

    filesystem, root = storage.resolve(folder.path)
    return ray_tune.Tuner.restore(
        f"{root}/{TUNE}",
        trainable,
        resume_unfinished=True,
        resume_errored=not restart_errored,
        restart_errored=restart_errored,
        storage_filesystem=filesystem,
    )


def _fresh(
    folder: RunFolder,
    settings: SearchSettings,
    points: list[dict[str, Any]],
    sample: Any,
    trainable: Any,
    display: Any,
) -> Any:
    from ray import tune as ray_tune
    from ray.tune.logger import JsonLoggerCallback

    from quadriga.platform import tuning_algorithms as algorithms
    from quadriga.platform.tuning_events import Feed

    filesystem, root = storage.resolve(folder.path)
    random, population = settings.searcher == "random", settings.scheduler.kind == "pbt"
    return ray_tune.Tuner(
        trainable,
        param_space={trial.POINT: ray_tune.grid_search(points)} if random else None,
        tune_config=ray_tune.TuneConfig(
            metric=OBJECTIVE,
            mode="max",
            num_samples=1 if random else settings.total,
            search_alg=algorithms.searcher(settings),
            scheduler=algorithms.scheduler(settings, sample.steps),
            max_concurrent_trials=settings.concurrency,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=ray_tune.RunConfig(
            name=TUNE,
            storage_path=root,
            storage_filesystem=filesystem,
            failure_config=ray_tune.FailureConfig(max_failures=settings.retries),
            # Of a population all are kept: a trial may take over one that its owner has replaced long since.
            checkpoint_config=ray_tune.CheckpointConfig(num_to_keep=None if population else KEPT),
            callbacks=[Feed(display), JsonLoggerCallback()],  # Tune reads results from its files
            verbose=0,
        ),
    )


def _trial_name(found: Any) -> str:
    # Not its number alone: a resumed search counts anew.
    return f"trial-{found.trial_id}"


def _placement(sample: Any, settings: SearchSettings) -> Any:
    from ray.tune import PlacementGroupFactory

    driver = settings.resources
    return PlacementGroupFactory(occupancy.bundles(sample, cpus=driver.cpus, gpus=driver.gpus))


def _result(found: Any, steps: int, settings: SearchSettings, trials_dir: str) -> TrialResult:
    metrics = found.metrics or {}
    name = f"trial-{metrics.get('trial_id') or os.path.basename(found.path).removeprefix('trial-')}"
    point = search.active(settings, trial.point_of(found.config or {}))
    return TrialResult(
        name=name,
        point=point,
        step=int(metrics.get(STEP, 0)),
        steps=int(point.get("steps", steps)),
        objective=float(metrics.get(OBJECTIVE, search.UNKNOWN)),
        means={key: float(metrics[key]) for key in settings.objective.metrics if key in metrics},
        stopped=metrics.get(trial.STOPPED),
        error=None if found.error is None else str(found.error).strip().splitlines()[-1],
        ended=bool(metrics.get("done")),
        folder=storage.join(trials_dir, name),
    )


def _ended_before(grid: Any, display: tuning_table.Display) -> set[str]:
    """The trials of a resumed search that had ended in an earlier call: Tune starts them no more."""
    trials = grid._experiment_analysis.trials  # the results do not say it
    return {str(found) for found in trials if found.status == "TERMINATED"} - set(display.rows)


def _name(sample: experiments.Experiment) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", f"tune-{sample.preset}-{line_of(sample).task(sample)}")


def _absolute(location: str) -> str:
    return location if storage.is_uri(location) else os.path.abspath(os.path.expanduser(location))


@contextlib.contextmanager
def _quiet(worker_output: bool) -> Iterator[None]:
    logger = logging.getLogger("ray")
    before = logger.level
    if not worker_output:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
