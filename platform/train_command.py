"""What commands that train do with their flags; each line of work has its own ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from quadriga.platform.errors import UserError


def train_or_resume(
    context: typer.Context,
    source: str | None,
    flags: Mapping[str, tuple[str, Any]],
    assignments: Sequence[str] | None,
    *,
    resume: str | None,
    runs_dir: str,
    address: str | None,
    as_json: bool,
    quiet: bool,
    missing: str,
    dashboard: bool = False,
) -> None:
    """Trains what `source` names with the fields of `flags` and then `--set` laid over it, or goes on with a run.

    Args:
        context: of the command.
        source: preset or experiment file.
        flags: the field that each sets, dotted, and its value; None where it was not given.
        assignments: of `--set`.
        resume: the run.
        runs_dir: folder or URI of all runs.
        address: of a Ray cluster.
        as_json: progress is printed for programs.
        quiet: no progress.
        missing: what is said if there is nothing to train.
        dashboard: a local Ray serves its dashboard.

    Raises:
        UserError: flags that exclude each other; nothing to train; or as `training.train`.
    """
    from quadriga.platform import experiment as experiments
    from quadriga.platform import training

    if as_json and quiet:
        raise UserError("--json and --quiet: give one of them")
    given = {flag: (field, value) for flag, (field, value) in flags.items() if value is not None}
    options: dict[str, Any] = {
        "runs_dir": runs_dir,
        "progress": "json" if as_json else "quiet" if quiet else "auto",
        "address": address,
        "dashboard": dashboard,
        "worker_output": bool((context.obj or {}).get("debug")),
    }
    if resume is not None:
        # A run goes on as it was begun: only its length can be changed.
        refused = [repr(source)] if source is not None else []
        refused += [flag for flag in given if flag != "--steps"] + (["--set"] if assignments else [])
        if refused:
            said = f"--resume goes on with the run's own experiment and takes only --steps, not {', '.join(refused)}"
            raise UserError(said)
        training.resume(resume, steps=given.get("--steps", (None, None))[1], **options)
    elif source is None:
        raise UserError(missing)
    else:
        fields: dict[str, Any] = {}
        for field, value in given.values():
            fields = experiments.merged(fields, experiments.nested(field, value))
        overrides = experiments.merged(fields, experiments.parse_assignments(list(assignments or [])))
        training.train(experiments.load(source, overrides), **options)
