"""A report's page taken apart: its figures, tables and everything that it refers to."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any, NamedTuple

VOID = {"meta", "link", "img", "br"}
REFERENCES = ("src", "href", "srcset", "poster", "data", "action")


class PageTable(NamedTuple):
    """Headers, and rows of cells: what is shown and what is sorted by."""

    headers: list[str]
    rows: list[list[tuple[str, str]]]

    def column(self, header: str) -> list[str]:
        """What a column is sorted by: the exact numbers, or its texts."""
        index = self.headers.index(header)
        return [row[index][1] for row in self.rows]


class Page(HTMLParser):
    """Reads a page; fails on elements that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.figures: dict[str, dict[str, Any]] = {}
        self.tables: list[PageTable] = []
        self.headings: list[str] = []
        self.references: list[str] = []
        self.policy = ""
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._figure = ""
        self._text = ""
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.references += [str(given[name]) for name in REFERENCES if name in given]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(given["content"])
        if "data-figure" in given:
            self._figure = str(given["data-figure"])
        if tag == "table":
            self.tables.append(PageTable([], []))
        if tag == "tr" and any(name == "tbody" for name, _ in self._open):
            self.tables[-1].rows.append([])
        if tag not in VOID:
            self._open.append((tag, given))
            self._text = "" if tag in ("th", "td", "script", "h1", "h2") else self._text

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        opened, given = self._open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"
        if tag == "th":
            self.tables[-1].headers.append(self._text.strip())
        elif tag == "td":
            self.tables[-1].rows[-1].append((" ".join(self._text.split()), str(given["data-sort"])))
        elif tag in ("h1", "h2"):
            self.headings.append(self._text.strip())
        elif tag == "script" and given.get("type") == "application/json":
            self.figures[self._figure] = json.loads(self._text)

    def table(self, *headers: str) -> PageTable:
        """The table that has all these columns."""
        (found,) = [table for table in self.tables if set(headers) <= set(table.headers)]
        return found
