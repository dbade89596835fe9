"""`kill -9` in the middle of each long command: the same final result, and nothing done twice."""

import json
from pathlib import Path

import pytest
import small_language_models
from killed_commands import finish, kill_when, lines, rows

from quadriga.codegen import corpus, sweep
from quadriga.platform.run_folder import RunFolder

pytestmark = pytest.mark.slow

MODULE = "import os\n" + "".join(
    f"\n\ndef add_{{file}}_{n}(first, second):\n"
    f'    """Adds {n} and the number of the file to both numbers, or to {n * n}."""\n'
    f"    total = first + second + {n}\n    return total * {{file}} + {n}\n"
    for n in range(40)
)
TIMINGS = ("_s", "_per_second", "timestamp")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_language_models.save(tmp_path_factory.mktemp("model"), max_position_embeddings=2048)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Sixty packages, each long enough to be met while it is read."""
    folder = tmp_path_factory.mktemp("source")
    for package in range(60):
        (folder / f"package{package}").mkdir()
        for file in range(4):
            text = MODULE.replace("{file}", str(100 * package + file))
            (folder / f"package{package}" / f"file{file}.py").write_text(text)
    return folder


def test_corpus(packages, tmp_path):
    words = ["code", "corpus", "build", packages, "--against", "builtin", "--near", "2", "--json", "-o"]
    whole = finish(*words, tmp_path / "whole")
    parts = tmp_path / "broken" / corpus.PARTS

    def read():
        return len(list(parts.glob("[!.]*"))) if parts.exists() else 0

    kill_when(lambda: read() >= 20, *words, tmp_path / "broken")
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("[!.]*")}
    resumed = finish(*words, tmp_path / "broken")
    assert 20 <= resumed["resumed"] == len(kept) < 60 and whole["resumed"] == 0
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    for name in (corpus.FILES, corpus.FUNCTIONS, corpus.REPORT):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name


def test_finetune(model, packages, tmp_path):
    made = tmp_path / "corpus"
    finish("code", "corpus", "build", packages, "--against", "none", "--near", "2", "--json", "-o", made)
    fields = [
        "data.length=128",
        "batch_size=4",
        "report_every=2",
        "checkpoint.every_iterations=1",
        "optimizer.warmup_steps=2",
    ]
    chosen = [part for each in fields for part in ("--set", each)]
    words = ["code", "finetune", "codex-functions", "--corpus", made, "--model", model, "--steps", 30, *chosen]
    where = ["--runs-dir", tmp_path, "--json"]
    finish(*words, "--name", "whole", *where)

    def steps():
        try:
            kept = RunFolder.open("broken", str(tmp_path)).checkpoints.latest()
        except Exception:  # the folder is being made
            return 0
        return kept.step if kept is not None else 0

    kill_when(lambda: steps() >= 6, *words, "--name", "broken", *where)
    left = steps()
    assert 6 <= left < 30
    finish("code", "finetune", "--resume", "broken", *where)
    whole, broken = (RunFolder.open(name, str(tmp_path)) for name in ("whole", "broken"))
    tables = [
        {name: values for name, values in run.metrics.read().to_pydict().items() if not name.endswith(TIMINGS)}
        for run in (whole, broken)
    ]
    assert tables[0]["optimizer_steps"] == list(range(2, 32, 2)) and tables[0] == tables[1]


def test_sample(model, tmp_path):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    words = ["code", "sample", "--model", model, "--problems", "builtin", "-n", 6, "--max-new-tokens", 60]
    words += ["--slots", 4, "--json", "-o"]
    finish(*words, whole)
    kill_when(lambda: lines(broken) >= 20, *words, broken)
    left = lines(broken)
    found = finish(*words, broken)
    assert found["resumed"] == left >= 20 and found["samples"] == 192
    assert _texts(broken) == _texts(whole)


@pytest.mark.parametrize("stage", ["sampling", "execution"])
def test_evaluate(model, tmp_path, stage):
    words = ["code", "evaluate", "--model", model, "--problems", "builtin", "-n", 3, "--max-new-tokens", 12]
    words += ["--temperatures", "0.2,0.8", "--timeout", 30, "--workers", 1, "--json", "-o"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(*words, whole)
    reached = broken / ("T0.8.jsonl" if stage == "sampling" else "T0.8.results.jsonl")
    kill_when(lambda: lines(reached) >= 20, *words, broken)
    before = {path.name: path.read_bytes() for path in broken.glob("T0.2*")}
    left = lines(reached)
    finish(*words, broken)
    assert 20 <= left < 96
    assert {path.name: path.read_bytes() for path in broken.glob("T0.2*")} == before
    for temperature in ("0.2", "0.8"):
        assert _texts(whole / f"T{temperature}.jsonl") == _texts(broken / f"T{temperature}.jsonl")
        verdicts = [_verdicts(each / f"T{temperature}.results.jsonl") for each in (whole, broken)]
        assert verdicts[0] == verdicts[1] and len(verdicts[0]) == 96
    summaries = [json.loads((each / sweep.SUMMARY).read_text()) for each in (whole, broken)]
    assert summaries[0] == summaries[1]


def test_execute(tmp_path, builtin):
    task, problem = next(iter(builtin.items()))
    samples, out = tmp_path / "s.jsonl", tmp_path / "r.jsonl"
    with samples.open("w") as file:
        for n in range(600):
            file.write(json.dumps({"task_id": task, "completion": f"{problem.canonical}# {n}\n"}) + "\n")
    words = ["code", "execute", samples, "--problems", "builtin", "--partial", "--out", out, "--json"]
    kill_when(lambda: lines(out) >= 100, *words)
    left = lines(out)
    found = finish(*words)
    assert 100 <= found["resumed"] == left < 600
    assert found["samples"] == found["verdicts"]["passed"] == len(rows(out)) == 600


def _texts(path: Path):
    return [(row["task_id"], row["sample"], row["completion"]) for row in rows(path)]


def _verdicts(path: Path):
    return sorted((row["task_id"], row["key"], row["verdict"]) for row in rows(path))
