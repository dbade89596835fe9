"""The report of runs: what was run, how it went, what it is worth; of one run or of several beside each other.

Runs of every line of work become sections here, from what their run folders hold and what their `Line` declares.
Other files (results of judged code, say) become sections by whoever announces a `Reporter` in the entry-point group
`quadriga.reports`. How the parts are made is in `report_sections`, how they look in `report_page`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quadriga.platform.errors import UserError
from quadriga.platform.lines import Line, line_of
from quadriga.platform.report_page import render
from quadriga.platform.report_parts import Report, Section
from quadriga.platform.report_sections import sections_of
from quadriga.platform.run_folder import RunFolder

GROUP = "quadriga.reports"


@dataclass(frozen=True)
class Reporter:
    """What turns files of one kind into sections of a report.

    Attributes:
        summary: what the files are, for error messages.
        accepts: whether a file is of that kind; it may read its beginning.
        sections: of all these files together, in their order.
        title: of a report about them alone.
    """

    summary: str
    accepts: Callable[[Path], bool]
    sections: Callable[[Sequence[Path]], Sequence[Section]]
    title: Callable[[Sequence[Path]], str]


def write_report(sources: Sequence[str], output: Path, runs_dir: str = "runs") -> Path:
    """Writes the report of `sources` into the file `output` and returns its path.

    Raises:
        UserError: as `make_report`, or the file cannot be written.
    """
    page = render(make_report(sources, runs_dir))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {str(output)!r}: {error.strerror}") from error
    return output


def make_report(sources: Sequence[str], runs_dir: str = "runs") -> Report:
    """The report of runs (by name, path or URI) and other files, runs of one line of work beside each other.

    Raises:
        UserError: nothing given, no such run or file, or a file that nobody can report on.
    """
    if not sources:
        raise UserError("no run to report on")
    runs: dict[str, tuple[Line, list[RunFolder]]] = {}
    files: dict[str, tuple[Reporter, list[Path]]] = {}
    known = reporters()
    for source in dict.fromkeys(sources):
        path = Path(source)
        if path.is_file():
            name = _reporter_of(path, known)
            files.setdefault(name, (known[name], []))[1].append(path)
        else:
            folder = RunFolder.open(source, runs_dir)
            line = line_of(folder.experiment())
            runs.setdefault(line.name, (line, []))[1].append(folder)
    sections: list[Section] = []
    titles: list[str] = []
    for line, folders in runs.values():
        title, made = sections_of(line, folders)
        titles.append(title)
        sections += made
    for reporter, paths in files.values():
        titles.append(reporter.title(paths))
        sections += reporter.sections(paths)
    return Report(" · ".join(titles), sections)


def reporters() -> Mapping[str, Reporter]:
    """Every installed reporter that can be imported, by name."""
    found = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            found[point.name] = point.load()
        except ImportError:  # one line's missing package must not take the others down
            continue
    return found


def _reporter_of(path: Path, known: Mapping[str, Reporter]) -> str:
    for name, reporter in known.items():
        if reporter.accepts(path):
            return name
    kinds = "; ".join(["run folders", *(reporter.summary for reporter in known.values())])
    raise UserError(f"{str(path)!r}: nothing here can report on such a file; what can be reported on: {kinds}")
