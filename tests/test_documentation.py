"""What the pages and the example files say exists: commands, options, fields, metrics, files, links."""

import functools
import re
import shlex
from pathlib import Path

import pytest
import typer

from quadriga.platform import experiment as experiments
from quadriga.platform import search, training
from quadriga.platform.cli import _plugins, app, run
from quadriga.platform.environments.registry import list_environments
from quadriga.platform.errors import UserError
from quadriga.platform.metrics import METRICS
from quadriga.policies.experiment import CPOSettings, LagrangianSettings, PIDSettings, TRPOSettings, TrustRegionSettings

_plugins()  # the commands of the lines of work

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
BLOCK = re.compile(r"^ *```(\w+)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(text: str) -> list[list[str]]:
    """The arguments of every `quadriga ...` in lines of shell, also behind a path, a prompt or variables."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if "quadriga " not in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        for index, word in enumerate(words):
            before = words[index - 1] if index else ""
            if Path(word).name == "quadriga" and (index == 0 or before in ("$", "&&", ";", "|") or "=" in before):
                rest = words[index + 1 :]
                end = next((k for k, part in enumerate(rest) if set(part) <= set("();<>|&")), len(rest))
                found.append(rest[:end])
    return found


SHELL = {page: [words for text in blocks(page, "bash", "console", "sh") for words in commands(text)] for page in PAGES}
COMMANDS = [pytest.param(words, id=f"{name(page)}: {shlex.join(words)}") for page in PAGES for words in SHELL[page]]
FILES = [(page, text) for page in PAGES for text in blocks(page, "yaml") if re.search(r"^preset:", text, re.MULTILINE)]


def examples_in_header(path: Path) -> list[list[str]]:
    header = path.read_text(encoding="utf-8").partition("\n\n")[0]
    return commands(re.sub(r"^# *(?:\w+: +)?", "", header, flags=re.MULTILINE))


@functools.cache
def environments() -> set[str]:
    return {row.id for row in list_environments()}


def is_known(env: str) -> bool:
    """Whether an environment is installed, or an example's module registers it."""
    module, colon, _ = env.rpartition(":")
    return (ROOT / "examples" / f"{module}.py").exists() if colon else env in environments()


def parse(words: list[str]) -> None:
    """Parses a command line and does nothing."""
    root = typer.main.get_command(app)
    first = next((k for k, word in enumerate(words) if not word.startswith("-")), len(words))
    context = root.make_context("quadriga", words[:first])
    command, rest = root, words[first:]
    while rest and hasattr(command, "commands"):  # a group of another package has commands of its own
        command_name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(command_name, rest, parent=context)
        rest = context._protected_args + context.args if hasattr(command, "commands") else []


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As `parse`; of `train` also that the experiment is valid, up to where it would begin."""
    words = [re.sub(r"\$\w+", "0", word) for word in words]  # $seed
    try:
        parse(words)
    except typer.Exit:
        return  # --help
    if "train" not in words[:2]:
        return
    seen = []
    monkeypatch.setattr(training, "train", lambda experiment, **options: seen.append(experiment))
    monkeypatch.setattr(training, "resume", lambda run, **options: seen.append(None))
    assert run(words) == 0
    ids = [each.env.id for each in seen if hasattr(each, "env")]
    assert [id for id in ids if not is_known(id)] == []
    assert len(seen) == 1


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_on_a_page_is_valid(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for _, text in FILES:
        if match := re.match(r"# (\S+\.yaml)", text):
            Path(match[1]).write_text(text, encoding="utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    check(words, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "quadriga train ppo --env CartPole-v1 --stepz 3",
        "quadriga trian ppo",
        "quadriga list nothing",
        "quadriga train ppo --env CartPole-v1 --set update.lr=1",
        "$ .venv/bin/quadriga train ppo --env Cartpole-v9",
        "RAY_ADDRESS=auto quadriga plot",
    ],
)
def test_a_command_that_does_not_exist_is_found(line, monkeypatch):
    (words,) = commands(line)
    with pytest.raises((AssertionError, UserError, typer.TyperException)):
        check(words, monkeypatch)


def test_commands_are_found_wherever_they_stand():
    text = (
        "x=1 .venv/bin/quadriga train ppo \\\n  --seed 1 # why\ncd quadriga\nquadriga plot a | tee b\n$ quadriga doctor"
    )
    assert commands(text) == [["train", "ppo", "--seed", "1"], ["plot", "a"], ["doctor"]]


@pytest.mark.parametrize(("page", "text"), [pytest.param(*file, id=f"{name(file[0])}") for file in FILES])
def test_every_experiment_on_a_page_is_valid(page, text):
    experiments.build(experiments.parse_yaml(text, where=name(page)), where=name(page))


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_every_example_is_valid_and_says_what_it_is_and_how_to_run_it(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    searched = "search" in experiments.read_document(name(path))
    if searched:
        fields, settings = search.load(name(path))
        experiment = search.experiment_at(fields, search.check(fields, settings)[0])
    else:
        experiment = experiments.load(name(path))
    assert not hasattr(experiment, "env") or is_known(experiment.env.id)
    assert path.read_text(encoding="utf-8").startswith("# ")
    header = examples_in_header(path)
    begins = [["tune", name(path)]] if searched else [["train", name(path)], ["meta", "train", name(path)]]
    assert any(words in header for words in begins)
    for words in header:
        check(words, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_resolves(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = [link.partition("#")[0] for link in LINK.findall(text) if not re.match(r"\w+:", link)]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_named_on_a_page_exists(page):
    text = page.read_text(encoding="utf-8")
    named = set(
        re.findall(r"(?<![\w./-])(?:examples|policies|metalearn|platform|benchmarks|docs)/[\w/.-]*\w\.\w+", text)
    )
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_make_target_on_a_page_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    used = set(re.findall(r"`make ([a-z-]+)", text))
    used |= set(re.findall(r"^make ([a-z-]+)", "\n".join(blocks(page, "bash")), re.MULTILINE))
    assert sorted(used - targets) == []


def test_every_command_and_option_is_on_the_page_of_the_command_line():
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## ([\w ]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    known = typer.main.get_command(app).commands
    named = [(name, command) for name, command in known.items() if not hasattr(command, "commands")]
    for group, command in known.items():
        named += [(f"{group} {name}", inside) for name, inside in getattr(command, "commands", {}).items()]
    for command_name, command in named:
        options = {
            option
            for each in (command, *getattr(command, "commands", {}).values())
            for parameter in each.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("-")
        }
        documented = set(re.findall(r"`(--?[a-z][a-z-]*)", sections[command_name]))
        assert (command_name, options - documented) == (command_name, set())
        assert (command_name, documented - options) == (command_name, set())


def test_every_metric_is_on_the_page_of_the_metrics():
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines()
    assert [
        f"| `{metric}` | {what} |" for metric, what in METRICS.items() if f"| `{metric}` | {what} |" not in page
    ] == []


def test_every_field_of_a_constraint_is_on_the_page_of_safe_rl():
    page = (ROOT / "docs" / "safe-rl.md").read_text(encoding="utf-8")
    table = page.partition("## Fields")[2].partition("\n## ")[0]
    fields = set(PIDSettings.model_fields) | set(LagrangianSettings.model_fields)
    fields |= set(TrustRegionSettings.model_fields) | set(TRPOSettings.model_fields) | set(CPOSettings.model_fields)
    assert sorted(field for field in fields if f"`{field}`" not in table) == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    assert sorted(page.name for page in PAGES[1:]) == sorted(re.findall(r"[\w-]+\.md", navigation))


@pytest.mark.parametrize("test", re.findall(r"`(tests/\S+::\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
def test_what_shows_a_fault_is_a_test(test: str) -> None:
    file, _, function = test.partition("::")
    assert re.search(rf"^def {function}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
