"""Installs the line of work of `tests/platform/walk_line.py`, by its entry point, for processes that tests start."""

import shutil
from pathlib import Path

LINE = Path(__file__).resolve().parents[1] / "platform" / "walk_line.py"


def install(site: Path) -> Path:
    """A folder for PYTHONPATH."""
    info = site / "walk-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: walk\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quadriga.lines]\nwalk = walk_line:LINE\n")
    shutil.copy(LINE, site)
    return site
