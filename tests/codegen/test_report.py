"""Reports of judged code: pass@k, verdicts and problems are those of the file of results."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from report_pages import Page

from quadriga.codegen.estimators import estimate
from quadriga.codegen.report import accepts
from quadriga.platform.errors import UserError
from quadriga.platform.report import make_report
from quadriga.platform.report_page import render

VERDICTS = {
    "T/0": ["passed"] * 3 + ["failed"],
    "T/1": ["timeout", "passed", "failed", "failed"],
    "T/2": ["crashed", "failed", "oom", "infrastructure_error", "passed"],
}


def write(path: Path, verdicts: dict[str, list[str]] = VERDICTS) -> Path:
    rows = [
        {
            "task_id": task,
            "verdict": verdict,
            "passed": verdict == "passed",
            "detail": "",
            "seconds": 0.25,
            "conditions": "split",
        }
        for task, all_of_it in verdicts.items()
        for verdict in all_of_it
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def page_of(*paths: Path) -> Page:
    return Page(render(make_report([str(path) for path in paths])))


def mean(page: Page) -> dict[str, Any]:
    (trace,) = [trace for trace in page.figures["pass_at_k"]["data"] if trace["meta"]["role"] == "mean"]
    return trace


def test_pass_at_k_against_k_is_the_unbiased_estimate_of_what_was_judged(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "a.results.jsonl"))
    counts = [(4, 3), (4, 1), (4, 1)]
    assert mean(page)["x"] == [1, 2, 3, 4]
    assert mean(page)["y"] == pytest.approx([estimate(counts, k).estimate for k in range(1, 5)])
    (area,) = [trace for trace in page.figures["pass_at_k"]["data"] if trace["meta"]["role"] == "band"]
    highs = [estimate(counts, k).high for k in range(1, 5)]
    lows = [estimate(counts, k).low for k in range(1, 5)]
    assert area["y"] == pytest.approx([*highs, *reversed(lows)])
    assert float(page.table("pass@1").column("pass@1")[0]) == pytest.approx(5 / 12)


def test_the_tally_counts_every_sample_once(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "a.results.jsonl"))
    (bars,) = page.figures["verdicts"]["data"]
    expected = Counter(verdict for verdicts in VERDICTS.values() for verdict in verdicts)
    assert {y.replace(" ", "_"): x for x, y in zip(bars["x"], bars["y"], strict=True)} == expected


def test_every_problem_has_a_row(tmp_path: Path) -> None:
    table = page_of(write(tmp_path / "a.results.jsonl")).table("problem", "passed", "pass rate")
    assert table.column("problem") == ["T/0", "T/1", "T/2"]
    assert table.column("passed") == ["3", "1", "1"]
    assert [float(rate) for rate in table.column("pass rate")] == [0.75, 0.25, 0.25]


def test_several_files_stand_beside_each_other(tmp_path: Path) -> None:
    cold = write(tmp_path / "cold.results.jsonl")
    hot = write(tmp_path / "hot.results.jsonl", {"T/0": ["failed", "passed"], "T/1": ["failed", "failed"]})
    page = page_of(cold, hot)
    assert page.headings[0] == "Generated code: cold, hot"
    names = [trace["name"] for trace in page.figures["pass_at_k"]["data"] if trace["meta"]["role"] == "mean"]
    assert names == ["cold", "hot"]
    table = page.table("pass@1", "pass@2", "pass@4")
    assert [value != "" for value in table.column("pass@4")] == [True, False]


def test_many_samples_keep_the_curve_short_and_the_usual_ks(tmp_path: Path) -> None:
    many = write(tmp_path / "a.results.jsonl", {task: ["passed"] * 20 + ["failed"] * 180 for task in ("T/0", "T/1")})
    page = page_of(many)
    assert len(mean(page)["x"]) < 30
    assert {1, 10, 100, 200} <= set(mean(page)["x"])
    assert page.figures["pass_at_k"]["layout"]["xaxis"]["type"] == "log"


def test_other_files_are_not_taken_for_results(tmp_path: Path) -> None:
    for name, text in {"empty": "", "text": "hello\n", "list": "[1]\n", "samples": '{"task_id": "T/0"}\n'}.items():
        (tmp_path / name).write_text(text)
        assert not accepts(tmp_path / name)
    assert accepts(write(tmp_path / "a.results.jsonl"))


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.results.jsonl")
    path.write_text(path.read_text() + '{"task_id": "T/0"}\n')
    with pytest.raises(UserError, match=r"a\.results\.jsonl, line 14: no result: 'verdict' is missing"):
        page_of(path)


def test_nothing_judged_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sample was judged"):
        page_of(write(tmp_path / "a.results.jsonl", {"T/0": ["infrastructure_error"]}))
