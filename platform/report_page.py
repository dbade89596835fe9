"""A report as one HTML file that needs no network: data, style, script, films and plotly.js are all inside.

plotly.js is embedded whole but compressed (browsers decompress it), which makes a file of 2 MB instead of 5. The page's
own policy forbids it to load anything, so that a report can be sent to anybody.
"""

from __future__ import annotations

import base64
import datetime
import functools
import gzip
import json
import math
from pathlib import Path
from typing import Any

from quadriga.platform.progress import number
from quadriga.platform.provenance import package_version
from quadriga.platform.report_parts import Cell, Figure, Film, Quantity, Report, Table, Text

TEMPLATES = Path(__file__).with_name("templates")


def render(report: Report) -> str:
    """The page, complete HTML."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["script"] = lambda data: Markup(_script(data))
    environment.filters["cell"] = _cell
    environment.tests["figure"] = lambda block: isinstance(block, Figure)
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.tests["film"] = lambda block: isinstance(block, Film)
    environment.tests["text"] = lambda block: isinstance(block, Text)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    return environment.get_template("report.html").render(
        report=report,
        style=Markup(_template("report.css")),
        code=Markup(_template("report.js")),
        plotly=plotly_compressed(),
        version=package_version("quadriga"),
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


@functools.cache
def plotly_compressed() -> str:
    """plotly.js, gzip in base64."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)).decode("ascii")


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _script(data: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _cell(cell: Cell) -> dict[str, Any]:
    """What a table cell shows, what it is sorted by, and whether it is a number."""
    if not isinstance(cell, Quantity):
        return {"text": cell, "sort": cell, "numeric": False, "interval": ""}
    known = cell.value is not None and not math.isnan(cell.value)
    shown = _shown(cell.value, percent=cell.percent)
    interval = ""
    if cell.interval is not None and not any(map(math.isnan, cell.interval)):
        interval = " to ".join(_shown(limit, percent=cell.percent) for limit in cell.interval)
    return {"text": shown, "sort": repr(cell.value) if known else "", "numeric": True, "interval": interval}


def _shown(value: float | None, *, percent: bool) -> str:
    if percent and value is not None and not math.isnan(value):
        return f"{value:.2%}"
    return number(value)
