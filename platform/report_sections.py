"""Sections of a report about runs of one line: results, curves, evaluations, films, all metrics, what was run."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quadriga.platform.errors import UserError
from quadriga.platform.evaluation import evaluations, sha256_of
from quadriga.platform.lines import Line
from quadriga.platform.metrics import METRICS
from quadriga.platform.plot import (
    RUNS_OF_A_BAND,
    Run,
    Setting,
    curve,
    read_runs,
    references,
    settings_of,
    shown_curves,
    smoothed,
    smoothing_window,
    step_label,
)
from quadriga.platform.progress import duration, words
from quadriga.platform.report_parts import (
    Block,
    Cell,
    Figure,
    Film,
    Quantity,
    Section,
    Table,
    Text,
    band_trace,
    error_bars,
    layout,
    line_trace,
)
from quadriga.platform.run_summary import changes_from_preset, provenance_of, summarize
from quadriga.platform.statistics import band, mean_interval

if TYPE_CHECKING:
    from quadriga.platform.run_folder import RunFolder

LAST_FRACTION = 0.1
MOST_FILM_BYTES = 40_000_000
FILMS = {".mp4": "video/mp4", ".gif": "image/gif"}
COUNTERS = {"iteration", "env_steps", "episodes", "tasks", "meta_iterations", "wall_time_s", "parameters_finite"}
PERCENT = ("accuracy",)

logger = logging.getLogger("quadriga")


def sections_of(line: Line, folders: Sequence[RunFolder]) -> tuple[str, list[Section]]:
    """Title and sections of a report about runs of one line of work.

    Raises:
        UserError: none of them has metrics yet.
    """
    _, runs = read_runs(folders)
    settings = settings_of(line, runs)
    curves = shown_curves(line, runs)
    names = [setting.label for setting in settings]
    tasks = sorted({line.task(run.experiment) for run in runs})
    title = " and ".join(tasks) if len(tasks) <= 2 else f"{len(tasks)} tasks"
    if len(runs) == 1:
        title = f"{runs[0].folder.name}: {runs[0].experiment.preset} on {title}"
    else:
        presets = list(dict.fromkeys(run.experiment.preset for run in runs))
        title = f"{title}: " + (", ".join(presets) if len(presets) <= 4 else f"{len(presets)} algorithms")
    sections = [
        Section("Results", _results(line, curves, settings)),
        Section(
            "Curves", [_curve(line, name, label, settings) for name, label in curves.items()], _about(settings), names
        ),
    ]
    if judged := _evaluations(settings):
        sections.append(Section("Evaluations", judged, "Episodes or tasks played after training.", names))
    if films := _films(runs):
        sections.append(Section("Films", films))
    others = [name for name in METRICS if name not in curves and name not in COUNTERS] + sorted(
        {name for run in runs for name in run.columns} - set(METRICS)
    )
    rest = [name for name in others if any(name in run.columns for run in runs)]
    if rest:
        blocks = [_curve(line, name, words(name), settings, note=METRICS.get(name, "")) for name in rest]
        sections.append(Section("All other metrics", blocks, _about(settings), names, folded=True))
    sections.append(Section("What was run", _what_was_run(line, settings)))
    return title, sections


def _about(settings: Sequence[Setting]) -> str:
    seeds = any(len(setting.runs) > 1 for setting in settings)
    several = "Lines are means over seeds, areas 95% intervals (Student's t). " if seeds else ""
    return (
        f"{several}Curves of 40 iterations and more are smoothed over 5% of them; "
        "the values of single runs are the faint lines behind."
    )


def _results(line: Line, curves: Mapping[str, str], settings: Sequence[Setting]) -> list[Block]:
    blocks: list[Block] = []
    runs = [run for setting in settings for run in setting.runs]
    if len(runs) > 1:
        rows: list[list[Cell]] = []
        for setting in settings:
            row: list[Cell] = [setting.label, Quantity(len(setting.runs))]
            for metric in curves:
                mean = mean_interval([_last(run, metric) for run in setting.runs])
                row.append(Quantity(mean.mean, (mean.low, mean.high), percent=_is_percent(metric)))
            rows.append(row)
        note = "Means of the last 10% of each run's iterations, and over seeds with their 95% intervals."
        blocks.append(Table("By setting", ["setting", "seeds", *curves.values()], rows, note))
    blocks.append(_published(line, curves, runs))
    headers = ["run", "setting", "seed", words(line.step_metric), "time", *curves.values()]
    rows = []
    for setting in settings:
        for run in setting.runs:
            seconds = _final(run, "wall_time_s")
            rows.append(
                [
                    run.folder.name,
                    setting.label.partition(" (")[0] if len(setting.runs) > 1 else setting.label,
                    Quantity(run.experiment.seed),
                    Quantity(_final(run, line.step_metric)),
                    duration(seconds) if math.isfinite(seconds) else "-",
                    *(Quantity(_final(run, metric), percent=_is_percent(metric)) for metric in curves),
                ]
            )
    blocks.append(Table("By run", headers, rows, "What the last iteration logged."))
    return [block for block in blocks if not isinstance(block, Table) or block.rows]


def _published(line: Line, curves: Mapping[str, str], runs: Sequence[Run]) -> Table:
    rows: list[list[Cell]] = []
    for metric, label in curves.items():
        for source, value in _published_values(line, metric, runs).items():
            rows.append([label, Quantity(value, percent=_is_percent(metric)), source])
    return Table("Published", ["measure", "value", "source"], rows)


def _published_values(line: Line, metric: str, runs: Sequence[Run]) -> dict[str, float]:
    found: dict[str, float] = {}
    for run in runs:
        found |= line.published(run.experiment, metric)
    return found


def _curve(line: Line, metric: str, label: str, settings: Sequence[Setting], note: str = "") -> Figure:
    """A metric against steps: a line a setting, a band over its seeds, the values of single runs behind."""
    data: list[dict[str, Any]] = []
    for series, setting in enumerate(settings):
        curves = [curve(run, line.step_metric, metric) for run in setting.runs if metric in run.columns]
        curves = [(steps, values) for steps, values in curves if len(steps)]
        if not curves:
            continue
        window = smoothing_window(max(len(values) for _, values in curves))
        smooth = [(steps, smoothed(values, window)) for steps, values in curves]
        if len(curves) > 1:
            whole = band(smooth)
            steps, mean = whole.steps, whole.mean
            if len(curves) >= RUNS_OF_A_BAND:
                data.append(band_trace(steps, whole.low, whole.high, series=series, name=setting.label))
        else:
            steps, mean = smooth[0]
        if window > 1 or len(curves) > 1:
            data += [line_trace(*each, series=series, name=setting.label, role="values") for each in curves]
        data.append(line_trace(steps, mean, series=series, name=setting.label))
    runs = [run for setting in settings for run in setting.runs]
    lines = {f"limit {value:g}": value for value in references(line, metric, runs)}
    lines |= {f"{source}: {value:.4g}": value for source, value in _published_values(line, metric, runs).items()}
    axis: dict[str, Any] = {"yaxis": {"tickformat": ".0%"}} if _is_percent(metric) else {}
    return Figure(metric, label, data, layout(step_label(line), lines, **axis), note)


def _evaluations(settings: Sequence[Setting]) -> list[Block]:
    """A table of all that `quadriga evaluate` found, and a figure a measure."""
    found: list[tuple[int, Run, dict[str, Any]]] = []
    for series, setting in enumerate(settings):
        for run in setting.runs:
            try:
                found += [(series, run, result) for result in evaluations(run.folder)]
            except UserError as error:
                logger.warning("%s", error)
    measures = list(dict.fromkeys(name for _, _, result in found for name in result if _is_measure(result[name])))
    rows: list[list[Cell]] = []
    for _, run, result in found:
        how = ["deterministic" if result.get("deterministic") else "stochastic"]
        how += [f"{key} {value}" for key, value in result.get("options", {}).items()]
        row: list[Cell] = [
            run.folder.name,
            str(result.get("checkpoint", "-")),
            Quantity(result.get("step")),
            Quantity(result.get("episodes")),
            Quantity(result.get("seed")),
            ", ".join(how),
        ]
        for name in measures:
            row.append(_measured(result[name], name) if _is_measure(result.get(name)) else Quantity(None))
        rows.append(row)
    if not rows:
        return []
    headers = ["run", "checkpoint", "step", "samples", "seed", "how", *map(words, measures)]
    table = Table("", headers, rows, "Means with 95% intervals (Student's t).")
    figures = [_measure_figure(name, found) for name in measures] if len(rows) > 1 else []
    return [table, *figures]


def _measure_figure(name: str, found: Sequence[tuple[int, Run, dict[str, Any]]]) -> Figure:
    data = []
    for series, run, result in found:
        if not _is_measure(result.get(name)):
            continue
        measured = {key: math.nan if value is None else value for key, value in result[name].items()}
        label = f"{run.folder.name}, {result.get('checkpoint')}"
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [measured["mean"]],
                "y": [label],
                "name": label,
                "error_x": error_bars([measured["mean"]], [measured["low"]], [measured["high"]]),
                "meta": {"series": series, "role": "mean"},
            }
        )
    axes: dict[str, Any] = {"yaxis": {"type": "category", "autorange": "reversed"}, "hovermode": "closest"}
    return Figure(f"evaluation_{name}", words(name), data, layout("mean and 95% interval", **axes))


def _is_measure(value: Any) -> bool:
    return isinstance(value, Mapping) and "mean" in value


def _measured(measure: Mapping[str, Any], name: str) -> Quantity:
    low, high = measure.get("low"), measure.get("high")
    interval = None if low is None or high is None else (float(low), float(high))
    return Quantity(measure["mean"], interval, percent=_is_percent(name))


def _films(runs: Sequence[Run]) -> list[Block]:
    """The films of evaluations that still are where they were written, and those in the run folder."""
    films: list[Block] = []
    size = 0
    for run in runs:
        for path, title in _film_files(run):
            content = path.read_bytes()
            if size + len(content) > MOST_FILM_BYTES:
                logger.warning("%s is left out: the report's films would be larger than 40 MB", path)
                continue
            size += len(content)
            films.append(Film(title, FILMS[path.suffix.lower()], content))
    return films


def _film_files(run: Run) -> list[tuple[Path, str]]:
    found: dict[Path, str] = {}
    try:
        results = evaluations(run.folder)
    except UserError:
        results = []
    for result in results:
        path = Path(result["video"]) if result.get("video") and result.get("video_sha256") else None
        # Another film, of another run, may have taken its place.
        if path is not None and path.suffix.lower() in FILMS and sha256_of(path) == result["video_sha256"]:
            found[path.resolve()] = f"{run.folder.name}: {result.get('checkpoint')} checkpoint, step {result['step']:,}"
    folder = run.folder.local_path("")
    for path in sorted(folder.iterdir()) if folder is not None else []:
        if path.suffix.lower() in FILMS and path.is_file():
            found.setdefault(path.resolve(), f"{run.folder.name}: {path.name}")
    return list(found.items())


def _what_was_run(line: Line, settings: Sequence[Setting]) -> list[Block]:
    changed: list[list[Cell]] = []
    texts: list[Block] = []
    for setting in settings:
        first = setting.runs[0]
        name = setting.label.partition(" (")[0] if len(setting.runs) > 1 else setting.label
        for key, (default, value) in changes_from_preset(first.experiment).items():
            changed.append([name, key, str(default), str(value)])
        texts.append(Text(f"Experiment: {name}", first.experiment.to_yaml()))
    runs = [run for setting in settings for run in setting.runs]
    origins = {run.folder.name: provenance_of(run.folder) for run in runs}
    headers = ["run", "begun (UTC)", "state", "Quadriga", "commit", "Python", "machine"]
    return [
        Table("Changed from the preset", ["setting", "field", "preset", "here"], changed or [["-", "nothing", "", ""]]),
        Table("Where it comes from", headers, [_origin(run, origins[run.folder.name]) for run in runs]),
        Text("Commands", _by_run({name: _command(origin.get("argv", [])) for name, origin in origins.items()})),
        Text("Packages", _by_run({name: _packages(origin) for name, origin in origins.items()})),
        *texts,
    ]


def _origin(run: Run, origin: Mapping[str, Any]) -> list[Cell]:
    git = origin.get("git") or {}
    hardware = origin.get("hardware", {})
    machine = [str(hardware.get("cpu", "-")), f"{hardware.get('usable_cores', '-')} cores", *hardware.get("gpus", [])]
    return [
        run.folder.name,
        str(origin.get("time_utc", "-"))[:16].replace("T", " "),
        summarize(run.folder).state,
        str(origin.get("version", "-")),
        f"{git['commit'][:12]}{', changed' if git.get('dirty') else ''}" if git else "-",
        str(origin.get("python", "-")),
        ", ".join(machine),
    ]


def _packages(origin: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in origin.get("packages", {}).items())


def _command(argv: Sequence[str]) -> str:
    return shlex.join([Path(argv[0]).name, *argv[1:]]) if argv else ""


def _by_run(texts: Mapping[str, str]) -> str:
    """One text for all runs if it is the same, else one each."""
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "\n".join(f"{name}: {text}" for name, text in texts.items())


def _final(run: Run, metric: str) -> float:
    """The newest value that was logged."""
    values = run.columns.get(metric, np.empty(0))
    known = values[~np.isnan(values)]
    return float(known[-1]) if len(known) else math.nan


def _last(run: Run, metric: str) -> float:
    """The mean of the last tenth of the run's iterations."""
    values = run.columns.get(metric, np.empty(0))
    tail = values[-max(1, round(LAST_FRACTION * len(values))) :]
    return float(np.nanmean(tail)) if len(tail) and not np.isnan(tail).all() else math.nan


def _is_percent(metric: str) -> bool:
    return any(part in metric for part in PERCENT)
