"""Experiments: one object from a preset, a file, flags; and errors that say what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from quadriga.platform import lines
from quadriga.platform.errors import UserError, nearest, unknown
from quadriga.platform.experiment import Experiment, build, load, merged, parse_assignments, parse_yaml, validate
from quadriga.platform.lines import Line

pytestmark = pytest.mark.usefixtures("toy_line")

OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,20}", fullmatch=True),
        "seed": st.integers(0, 2**31 - 1),
        "steps": st.integers(1, 2**40),
        "task": st.one_of(
            st.text(min_size=1).filter(str.isprintable),
            st.fixed_dictionaries({"id": st.just("a: b #c")}, optional={"difficulty": st.floats(0, 1)}),
        ),
        "brake": st.one_of(
            st.sampled_from(["none", "fixed", "adaptive"]),
            st.fixed_dictionaries({"kind": st.just("fixed")}, optional={"strength": st.floats(0, 1e300)}),
            st.fixed_dictionaries({"kind": st.just("adaptive"), "gain": st.floats(1e-300, 1e-3)}),
        ),
        "hidden": st.lists(st.integers(-5, 512), min_size=1, max_size=4),
        "learning_rate": st.floats(1e-12, 1e12),
        "patience": st.one_of(st.none(), st.integers(1, 10)),
        "checkpoint": st.fixed_dictionaries({}, optional={"keep": st.integers(1, 99)}),
    },
)


@given(st.sampled_from(["toy", "toy-fixed", "toy-adaptive"]), OVERRIDES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, preset: str, overrides: dict[str, Any]
) -> None:
    experiment = load(preset, overrides)
    path = tmp_path_factory.mktemp("experiment") / "experiment.yaml"
    path.write_text(experiment.to_yaml(), encoding="utf-8")
    assert load(str(path)) == experiment
    assert load(str(path)).to_yaml() == experiment.to_yaml()


def test_a_written_experiment_is_complete() -> None:
    fields = yaml.safe_load(load("toy-fixed").to_yaml())
    assert next(iter(fields)) == "preset"
    assert fields["brake"] == {"kind": "fixed", "strength": 2.0, "limit": 25.0}
    assert fields["checkpoint"] == {"every_iterations": 10, "keep": 3}
    assert fields["name"] is None


def test_later_layers_win(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: toy-fixed\nseed: 3\nbrake: {limit: 10}\n")
    experiment = load(str(path), {"seed": 4, "task": {"difficulty": 0.1}})
    # default 25 < file 10; default 1.0 < preset 2.0; default 3e-4 < preset 1e-3; file 3 < command 4
    assert experiment.brake.model_dump() == {"kind": "fixed", "strength": 2.0, "limit": 10.0}  # type: ignore[attr-defined]
    assert experiment.learning_rate == 1e-3  # type: ignore[attr-defined]
    assert experiment.seed == 4
    assert experiment.task.model_dump() == {"id": "Toy-v0", "difficulty": 0.1}  # type: ignore[attr-defined]


def test_flags_file_and_preset_build_the_same_object(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("preset: toy-fixed\nseed: 4\ntask: {id: Other-v1}\nlearning_rate: 1e-3\nhidden: [32]\n")
    flags = parse_assignments(["seed=4", "task.id=Other-v1", "hidden=[32]"])
    assert load(str(path)) == load("toy-fixed", flags) == build({"preset": "toy-fixed", **flags})


def test_a_section_of_another_kind_replaces_the_one_below() -> None:
    experiment = load("toy-fixed", {"brake": {"kind": "adaptive", "gain": 0.5}})
    assert experiment.brake.model_dump() == {"kind": "adaptive", "gain": 0.5, "limit": 25.0}  # type: ignore[attr-defined]
    assert load("toy-fixed", {"brake": "none"}).brake.model_dump() == {"kind": "none"}  # type: ignore[attr-defined]


def test_a_section_of_the_same_kind_keeps_the_settings_below() -> None:
    experiment = load("toy-fixed", {"brake": {"kind": "fixed", "limit": 5}})
    assert experiment.brake.model_dump() == {"kind": "fixed", "strength": 2.0, "limit": 5.0}  # type: ignore[attr-defined]


def test_a_setting_of_the_default_kind_needs_no_kind() -> None:
    assert load("toy-adaptive", {"brake": {"gain": 3}}).brake.gain == 3  # type: ignore[attr-defined]


MAPPINGS = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2)),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "kind"]), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


@given(MAPPINGS, MAPPINGS)
def test_merging_changes_neither_side_and_laying_on_twice_is_laying_on_once(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    before = repr((base, over))
    once = merged(base, over)
    assert repr((base, over)) == before
    assert merged(once, over) == once
    assert merged(base, {}) == base
    assert merged({}, over) == over
    assert set(once) == set(base) | set(over)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("3E5", 3e5),
        ("-2.5e+4", -2.5e4),
        (".5e1", 5.0),
        ("1.e2", 100.0),
        ("1_000", 1000),
        ("12", 12),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("[64, 64]", [64, 64]),
        ("{a: 1e2}", {"a": 100.0}),
        ("e3", "e3"),
        ("1e", "1e"),
        ("'1e3'", "1e3"),
        ("CartPole-v1", "CartPole-v1"),
        ("2026-01-02", "2026-01-02"),
    ],
)
def test_yaml_is_read_as_people_write_it(text: str, value: Any) -> None:
    found = parse_yaml(text, where="here")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\t- a", "!!python/object:os.system {}", "&a [*b]", "\x00"])
def test_text_that_is_no_yaml_is_one_clear_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^here( line \d+)?: not valid YAML: ") as caught:
        parse_yaml(text, where="here")
    assert "\n" not in str(caught.value)


def test_a_key_given_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("preset: toy\nseed: 1\nseed: 2\n")
    with pytest.raises(UserError, match="line 3: not valid YAML: key 'seed' given twice"):
        load(str(path))


def test_sections_of_a_file_can_be_shared_with_anchors() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}\nd: *b"
    found = parse_yaml(text, where="here")
    assert found == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 2, "y": 3}, "d": {"x": 2, "y": 1}}


def test_assignments_nest() -> None:
    found = parse_assignments(["a.b=1", "a.c=x", "d=[1, 2]", "a.b=2", "e==", "f="])
    assert found == {"a": {"b": 2, "c": "x"}, "d": [1, 2], "e": "=", "f": None}


@pytest.mark.parametrize("assignment", ["seed", "=1", "a..b=1", ".a=1", "a.=1", ""])
def test_an_assignment_without_key_or_value_shows_what_is_expected(assignment: str) -> None:
    with pytest.raises(UserError, match=r"expected key=value, e\.g\. --set"):
        parse_assignments([assignment])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sede": 1}, "unknown key 'sede'; did you mean 'seed'?"),
        ({"task": {"dificulty": 1}}, "unknown key 'task.dificulty'; did you mean 'task.difficulty'?"),
        ({"checkpoint": {"every": 1}}, "unknown key 'checkpoint.every'; did you mean 'checkpoint.every_iterations'?"),
        ({"brake": {"kind": "fixed", "strenght": 1}}, "unknown key 'brake.strenght'; did you mean 'brake.strength'?"),
        ({"brake": {"kind": "adaptive", "gian": 1}}, "unknown key 'brake.gian'; did you mean 'brake.gain'?"),
        ({"limit": 1}, "unknown key 'limit'; did you mean 'brake.limit'?"),
        ({"difficulty": 1}, "unknown key 'difficulty'; did you mean 'task.difficulty'?"),
        ({"zzzzzz": 1}, "unknown key 'zzzzzz'; allowed: brake, checkpoint, hidden"),
        # of two problems, the unknown key that explains the other
        ({"task": {"idd": "x"}, "steps": -1}, "unknown key 'task.idd'; did you mean 'task.id'?"),
        ({"steps": -1}, "steps: expected greater than 0, got -1"),
        ({"steps": 1.5}, "steps: expected a valid integer, got a number with a fractional part, got 1.5"),
        ({"steps": "many"}, "steps: expected a valid integer, unable to parse string as an integer, got 'many'"),
        ({"steps": None}, "steps: expected a valid integer, got None"),
        ({"seed": 2**31}, "seed: expected less than 2147483648, got 2147483648"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a finite number, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate: expected a finite number, got inf"),
        ({"brake": {"kind": "fixed", "limit": -1}}, "brake.limit: expected greater than or equal to 0, got -1"),
        (
            {"brake": {"kind": "fxied"}},
            "brake.kind: expected one of 'none', 'fixed', 'adaptive', got 'fxied'; did you mean 'fixed'?",
        ),
        (
            {"brake": "fxied"},
            "brake.kind: expected one of 'none', 'fixed', 'adaptive', got 'fxied'; did you mean 'fixed'?",
        ),
        ({"brake": {"strength": 1}}, "unknown key 'brake.strength'; it belongs to brake.kind 'fixed'"),
        ({"brake": 5}, "brake: expected a section with key 'kind' or one of 'none', 'fixed', 'adaptive', got 5"),
        ({"brake": {"kind": None}}, "brake.kind: expected one of 'none', 'fixed', 'adaptive', got None"),
        ({"task": 5}, "task: expected a section with keys id, difficulty, got 5"),
        ({"task": ""}, "task.id: expected at least 1 character, got ''"),
        ({"checkpoint": "often"}, "checkpoint: expected a section with keys every_iterations, keep, got 'often'"),
        ({"mode": "fsat"}, "mode: expected 'fast' or 'exact', got 'fsat'; did you mean 'fast'?"),
        ({"hidden": []}, "hidden: expected at least 1 item, got []"),
        ({"hidden": [64, "x"]}, "hidden.1: expected a valid integer, unable to parse string as an integer, got 'x'"),
        ({"hidden": 64}, "hidden: expected a list, got 64"),
        (
            {"name": "../up"},
            "name: allowed: letters, digits and . _ + -, beginning with a letter or digit, got '../up'",
        ),
        ({"task": {"id": "Fixed-v0", "difficulty": 0.9}}, "task: Fixed-v0 has no difficulty"),
        ({"mode": "exact", "hidden": [1]}, "mode exact needs two hidden layers"),
        ({"name": 5}, "name: expected a valid string, got 5"),
    ],
)
def test_bad_input_names_field_value_and_what_is_allowed(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load("toy", overrides)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: toy\nstepz: 5\n")
    with pytest.raises(UserError, match=r"mine\.yaml: unknown key 'stepz'; did you mean 'steps'\?"):
        load(str(path))


def test_an_unknown_preset_gives_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown preset 'toy-fxied'; did you mean 'toy-fixed'"):
        load("toy-fxied")
    with pytest.raises(UserError, match="unknown preset 'sac'; see: quadriga list presets"):
        load("sac")


@pytest.mark.parametrize("preset", [None, 5, ["toy"]])
def test_a_preset_that_is_no_name_is_refused(preset: object) -> None:
    with pytest.raises(UserError, match="preset: expected the name of a preset"):
        build({"preset": preset})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no experiment file 'missing\.yaml'"):
        load("missing.yaml")
    with pytest.raises(UserError, match="no experiment file"):
        load(str(tmp_path))


@pytest.mark.parametrize(("text", "kind"), [("- a", "list"), ("", "NoneType"), ("toy", "str")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, kind: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"expected a mapping of experiment fields, got {kind}"):
        load(str(path))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"preset: \xe9"])
def test_a_file_that_is_no_text_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.yaml: not UTF-8 text"):
        load(str(path))


def test_a_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: toy\n5: x\n")
    with pytest.raises(UserError, match=r"mine\.yaml: unknown key '5'"):
        load(str(path))


def test_an_experiment_does_not_change() -> None:
    experiment = load("toy")
    with pytest.raises(ValidationError, match="frozen"):
        experiment.seed = 5


def test_the_line_of_an_experiment_is_found(toy_line: Line) -> None:
    assert lines.line_of(load("toy")) is toy_line
    assert lines.find_preset("toy-fixed")[0] is toy_line


def test_validate_reports_problems_of_a_whole_model() -> None:
    with pytest.raises(UserError, match=r"^here: steps: missing \(length of the run .*\)$"):
        validate(Experiment, {"preset": "toy"}, prefix="here: ")


def test_nearest_ignores_case_and_gives_nothing_when_nothing_is_near() -> None:
    assert nearest("cartpole-V1", ["CartPole-v1", "Acrobot-v1"]) == "; did you mean 'CartPole-v1'?"
    assert nearest("xyz", ["CartPole-v1"]) == ""
    assert nearest("cart", ["CartPole-v1", "Acrobot-v1"]) == "; did you mean 'CartPole-v1'?"
    assert nearest("toy", ["toy-with-a-long-name", "toy-with-another-name"]) == ""
    assert str(unknown("key", "xyz", ["b", "a"])) == "unknown key 'xyz'; allowed: a, b"
    assert str(unknown("key", "xyz", [])) == "unknown key 'xyz'"


def test_assignments_that_would_undo_each_other_are_refused() -> None:
    with pytest.raises(UserError, match=r"--set env\.native=false: env was set to CartPole-v1 before"):
        parse_assignments(["env=CartPole-v1", "env.native=false"])
    assert parse_assignments(["env.id=CartPole-v1", "env.native=false"]) == {
        "env": {"id": "CartPole-v1", "native": False}
    }
