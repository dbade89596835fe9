"""The experiment: one typed object that a YAML file, the flags of a command and a search point all build.

Layers, later ones winning: the model's defaults, the preset's, the file's, the command's. What a
line of work adds (environments, networks, tasks) is a subclass; this module knows only what
every experiment has, and nothing of Ray or of run folders.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from quadriga.platform import lines
from quadriga.platform.errors import UserError, nearest

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class Section(BaseModel):
    """A part of an experiment: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=Section)


class CheckpointSettings(Section):
    """When checkpoints are written and how many are kept."""

    every_iterations: Annotated[int, Field(ge=1, description="iterations between checkpoints")] = 10
    keep: Annotated[int, Field(ge=1, description="latest checkpoints kept; the best one is always kept")] = 3


class Experiment(Section):
    """What every experiment has; `quadriga.platform.lines` lists the subclasses that add the rest."""

    preset: Annotated[str, Field(description="algorithm, by its published name")]
    name: Annotated[
        str | None, Field(description="name of the run folder; made from preset, task and seed if absent")
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**31, description="every random stream of the run derives from it")] = 0
    steps: Annotated[int, Field(gt=0, description="length of the run in the line's unit (environment steps, ...)")]
    checkpoint: CheckpointSettings = CheckpointSettings()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str | None) -> str | None:
        if name is not None and not RUN_NAME.fullmatch(name):
            raise ValueError("allowed: letters, digits and . _ + -, beginning with a letter or digit")
        return name

    def to_yaml(self) -> str:
        """The complete experiment, defaults included, in field order."""
        return dump_yaml(self.model_dump(mode="json"))


def dump_yaml(fields: Mapping[str, Any]) -> str:
    """A mapping as people write it, in its own order."""
    return str(yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True, width=100))


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-3` is a number, `2026-01-02` and `=` are text, and a key is given once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} given twice", key.start_mark
                    )
                seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


_NOT_FOR_PEOPLE = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in _NOT_FOR_PEOPLE]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, *, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        UserError: the text is no YAML; the message names `where` and the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{where}{at}: not valid YAML: {problem}") from None


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Nested values from `key.subkey=value` texts; values are YAML (`1e-3`, `true`, `[64, 64]`, `null`).

    Raises:
        UserError: a text has no `=` or an empty key, or sets a key inside one that was set to a plain value.
    """
    found: dict[str, Any] = {}
    plain: dict[str, str] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not all(key.split(".")):
            raise UserError(f"--set {assignment!r}: expected key=value, e.g. --set env.id=CartPole-v1")
        parts = key.split(".")
        for parent in (".".join(parts[:depth]) for depth in range(1, len(parts))):
            if parent in plain:
                raise UserError(
                    f"--set {assignment}: {parent} was set to {plain[parent]} before; set its keys one by one"
                )
        value = parse_yaml(text, where=f"--set {key}")
        if not isinstance(value, dict):
            plain[key] = text
        found = merged(found, nested(key, value))
    return found


def nested(name: str, value: Any) -> dict[str, Any]:
    """`{"a": {"b": value}}` of the field `a.b`; the inverse of `flattened` for one field."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)


_SAME = object()


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on it, mappings merged key by key, everything else replaced.

    A section of another `kind` replaces the one below it whole: the settings of one kind mean
    nothing to another.
    """
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        if (
            isinstance(known, Mapping)
            and isinstance(value, Mapping)
            and value.get("kind", _SAME) in (_SAME, known.get("kind"))
        ):
            value = merged(known, value)
        result[key] = value
    return result


def flattened(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def load(source: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of a preset name or a YAML file, with the command's `overrides` on top.

    Raises:
        UserError: no such preset or file; or an unknown key, a wrong type or a value out of range, named.
    """
    if is_file(source):
        return build(merged(read_experiment(source), overrides or {}), where=source)
    return build(merged({"preset": source}, overrides or {}))


def is_file(source: str) -> bool:
    """Whether `source` names a file, and no preset."""
    return Path(source).suffix in {".yaml", ".yml"} or "/" in source


def read_experiment(source: str) -> dict[str, Any]:
    """As `read_document`, of a file that is to be trained.

    Raises:
        UserError: as `read_document`, or it holds a search.
    """
    document = read_document(source)
    if "search" in document:
        raise UserError(f"{source}: holds a search; run it with: quadriga tune {source}")
    return document


def read_document(source: str) -> dict[str, Any]:
    """The fields in an experiment file, as they stand there.

    Raises:
        UserError: no such file, or no mapping in it.
    """
    path = Path(source)
    if not path.is_file():
        raise UserError(f"no experiment file {source!r}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}") from None
    document = parse_yaml(text, where=source)
    if not isinstance(document, dict):
        raise UserError(f"{source}: expected a mapping of experiment fields, got {type(document).__name__}")
    return document


def build(fields: Mapping[str, Any], *, where: str = "") -> Experiment:
    """The validated experiment of `fields`; `fields["preset"]` says which line of work and which defaults.

    Raises:
        UserError: as `load`.
    """
    prefix = f"{where}: " if where else ""
    preset = fields.get("preset")
    if not isinstance(preset, str):
        raise UserError(f"{prefix}preset: expected the name of a preset, got {preset!r}; see: quadriga list presets")
    line, defaults = lines.find_preset(preset)
    layers = merged(_section_defaults(line.experiment), line.normalise(defaults, fields))
    return validate(line.experiment, layers, prefix=prefix)


def _section_defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The defaults that are sections, written out: a layer that gives some of a section's keys keeps the others."""
    fields = model.model_fields.items()
    return {name: field.default.model_dump() for name, field in fields if isinstance(field.default, BaseModel)}


def validate(model: type[ModelT], fields: Mapping[str, Any], *, prefix: str = "") -> ModelT:
    """`model` built from `fields`, with pydantic's report turned into one line.

    Raises:
        UserError: the first problem: its field, its value and what is allowed.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise UserError(prefix + _explain(model, error)) from None


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    problems = error.errors()
    # An unknown key explains a missing one better than the other way round.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    kind, given, context = problem["type"], problem["input"], problem.get("ctx", {})
    location, sections = _locate(model, problem["loc"])
    dotted = ".".join(location)
    if kind in {"extra_forbidden", "invalid_key"}:
        return _unknown_key(model, location, sections)
    if kind == "missing":
        held = (section.model_fields.get(location[-1]) for section in sections)
        described = next((field.description for field in held if field is not None), None)
        return f"{dotted}: missing" + (f" ({described})" if described else "")
    below = _sections_at(model, location)
    kinds = list(filter(None, map(_kind, below)))
    if kind.startswith("union_tag_") or (kind.startswith("model_") and len(kinds) > 1):
        allowed = f"one of {', '.join(map(repr, kinds))}"
        if not isinstance(given, Mapping):
            return f"{dotted}: expected a section with key 'kind' or {allowed}, got {given!r}"
        tag = given.get("kind")
        return f"{dotted}.kind: expected {allowed}, got {tag!r}{nearest(str(tag), kinds)}"
    if kind.startswith("model_"):
        wanted = f"expected a section with keys {', '.join(name for section in below for name in section.model_fields)}"
    elif kind in {"string_too_short", "too_short"}:
        count, unit = context["min_length"], "character" if kind == "string_too_short" else "item"
        wanted = f"expected at least {count} {unit}{'' if count == 1 else 's'}"
    elif kind in {"list_type", "tuple_type"}:
        wanted = "expected a list"
    elif kind == "value_error":
        wanted = problem["msg"].removeprefix("Value error, ")
    else:
        wanted = f"expected {problem['msg'].removeprefix('Input should be ')}"
    hint = nearest(str(given), re.findall(r"'([^']+)'", context["expected"])) if kind == "literal_error" else ""
    got = "" if not dotted or isinstance(given, Mapping) else f", got {given!r}"
    return f"{dotted}: {wanted}{got}{hint}" if dotted else wanted


def _unknown_key(model: type[BaseModel], location: list[str], sections: list[type[BaseModel]]) -> str:
    *parents, name = location
    siblings = {sibling: ".".join([*parents, sibling]) for section in sections for sibling in section.model_fields}
    owners = [_kind(section) for section in _sections_at(model, parents) if name in section.model_fields]
    elsewhere = [path for path in _keys(model) if path.rpartition(".")[2] == name]
    if owners:
        hint = f"; it belongs to {'.'.join(parents)}.kind {' or '.join(map(repr, owners))}"
    elif elsewhere:
        hint = f"; did you mean {' or '.join(map(repr, elsewhere))}?"
    else:
        near = nearest(name, siblings)
        hint = (
            near.replace("'", f"'{'.'.join([*parents, ''])}", 1) or f"; allowed: {', '.join(sorted(siblings.values()))}"
        )
    return f"unknown key {'.'.join(location)!r}{hint}"


def _keys(model: type[BaseModel]) -> list[str]:
    """Every dotted key of a model and its sections."""
    keys = []
    for name, field in model.model_fields.items():
        below = [f"{name}.{key}" for section in _sections_in(field.annotation) for key in _keys(section)]
        keys += [name, *dict.fromkeys(below)]
    return keys


def _sections_at(model: type[BaseModel], location: list[str]) -> list[type[BaseModel]]:
    """The sections that may stand at a dotted location."""
    inside = [model]
    for part in location:
        fields = [section.model_fields[part] for section in inside if part in section.model_fields]
        inside = [section for field in fields for section in _sections_in(field.annotation)]
    return inside


def _locate(model: type[BaseModel], path: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """pydantic's error location as a person writes it (no union tags), and the sections that hold its last key."""
    location: list[str] = []
    holders, inside = [model], [model]
    for part in map(str, path):
        field = next((section.model_fields[part] for section in inside if part in section.model_fields), None)
        tagged = [section for section in inside if _kind(section) == part]
        if field is None and tagged and len(inside) > 1:
            inside = tagged
            continue
        location.append(part)
        holders, inside = inside, [] if field is None else _sections_in(field.annotation)
    return location, holders


def _kind(section: type[BaseModel]) -> str | None:
    field = section.model_fields.get("kind")
    return None if field is None else str(field.default)


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in typing.get_args(annotation) for section in _sections_in(part)]
