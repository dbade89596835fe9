"""What commands that train do with their flags once a line of work has made fields of its own ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from quadriga.platform.errors import UserError


def train_or_resume(
    context: typer.Context,
    source: str | None,
    fields: Mapping[str, Any],
    assignments: Sequence[str] | None,
    *,
    resume: str | None,
    runs_dir: str,
    address: str | None,
    as_json: bool,
    quiet: bool,
    missing: str,
) -> None:
    """Trains what `source` names with `fields` and then `--set` laid over it, or goes on with the run `resume`.

    Raises:
        UserError: flags that exclude each other; `missing`, if there is nothing to train; or as `training.train`.
    """
    from quadriga.platform import experiment as experiments
    from quadriga.platform import training

    if as_json and quiet:
        raise UserError("--json and --quiet: give one of them")
    options: dict[str, Any] = {
        "runs_dir": runs_dir,
        "progress": "json" if as_json else "quiet" if quiet else "auto",
        "address": address,
        "worker_output": bool((context.obj or {}).get("debug")),
    }
    if resume is not None:
        if source is not None or assignments or set(fields) - {"steps"}:
            raise UserError("--resume goes on with the run's own experiment and takes only --steps")
        training.resume(resume, steps=fields.get("steps"), **options)
    elif source is None:
        raise UserError(missing)
    else:
        overrides = experiments.merged(fields, experiments.parse_assignments(list(assignments or [])))
        training.train(experiments.load(source, overrides), **options)
