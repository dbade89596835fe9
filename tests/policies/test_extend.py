"""The page that shows how to add an update rule and a constraint, run as it stands."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from quadriga.platform import experiment as experiments
from quadriga.platform import training
from quadriga.platform.errors import UserError
from quadriga.platform.lines import line_of
from quadriga.platform.run_folder import RunFolder

BLOCK = re.compile(r"^```(python|yaml)\n# (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = ("focops", "multiplicative")


@pytest.fixture
def page(root, tmp_path, monkeypatch):
    """The page's files, importable here; Ray's runners and learners run in this process."""
    for kind, name, text in BLOCK.findall((root / "docs" / "extend.md").read_text(encoding="utf-8")):
        (tmp_path / name).write_text(text)
        if kind == "python":
            assert text.count("\n") < 60
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def small(page, **fields):
    tiny = {"steps": 2000, "rollout": {"batch_size": 500, "envs_per_runner": 4}, "env": "faulty_environments:Ramp-v0"}
    return experiments.load(str(page / "focops_multiplicative.yaml"), tiny | fields)


@pytest.mark.usefixtures("ray_session")
def test_the_page_s_rule_and_constraint_train_together_and_resume_to_the_same_run(page):
    limit = {"constraint": {"cost_limit": 2.0, "options": {"rate": 0.5}}}
    whole = training.train(small(page, name="whole", **limit), runs_dir="runs", progress="quiet")
    training.train(small(page, name="cut", steps=1000, **limit), runs_dir="runs", progress="quiet")
    cut = training.resume("cut", steps=2000, runs_dir="runs", progress="quiet")
    one, other = (RunFolder.open(run.path).metrics.read().to_pylist() for run in (whole, cut))
    multipliers = [row["lagrange_multiplier"] for row in one]
    assert multipliers == [row["lagrange_multiplier"] for row in other]
    for before, row in zip([0.01, *multipliers], one, strict=False):
        growth = np.exp(0.5 * (row["constraint_cost"] / 2.0 - 1.0))
        assert row["lagrange_multiplier"] == pytest.approx(min(max(before * growth, 0.01), 100.0))
    assert max(multipliers) > 0.01
    assert all(0 < row["kl"] < 0.5 and row["reward_value_loss"] > 0 for row in one)
    assert [row["kl"] for row in one] == [row["kl"] for row in other]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"update": {"rule": "focops"}}, "update.rule: expected package.module:name, got 'focops'"),
        ({"update": {"rule": "focus:update"}}, "update.rule 'focus:update': No module named 'focus'"),
        ({"update": {"rule": "focops:updat"}}, "update.rule 'focops:updat': module 'focops' has no attribute 'updat'"),
        (
            {"update": {"options": {"epoch": 1}}},
            "update.options of 'focops:update': got an unexpected keyword argument",
        ),
        ({"constraint": {"options": {"rat": 1}}}, "constraint.options of 'multiplicative:Multiplicative': .*'rat'"),
        ({"constraint": {"factory": "focops:fit_critics"}}, "constraint.options of 'focops:fit_critics': "),
        (
            {"constraint": {"options": {"floor": -1}}},
            "'multiplicative:Multiplicative': multiplier: expected a finite number of at least 0, got -1",
        ),
    ],
)
def test_a_part_that_cannot_be_used_is_named_before_anything_starts(page, fields, said):
    found = small(page, **fields)
    with pytest.raises(UserError, match=said):
        line_of(found).check(found)
