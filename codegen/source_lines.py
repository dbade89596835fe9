"""The lines of a program as Python's parser numbers them.

`str.splitlines` ends a line at form feeds and other separators too, and so comes to other numbers.
"""

from __future__ import annotations

import io


def source_lines(text: str) -> list[str]:
    """Lines with their ends, each of which is `\\n` now; line `n` of a syntax tree is at `n - 1`."""
    return list(io.StringIO(text, newline=None))
