"""Verdicts of single samples, in every tier that the machine offers."""

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ordinary_user import USER, run_as_ordinary_user
from sandboxes import make

from quadriga.codegen.problems import Problem
from quadriga.codegen.sandbox import supervisor
from quadriga.codegen.sandbox.limits import Limits, printable
from quadriga.codegen.sandbox.supervisor import Sandbox, plans
from quadriga.platform.errors import UserError

NOT_DATA = "(the solution returned a builtin_function_or_method, which is not plain data)"
ORDINARY = """
import json, sys
from quadriga.codegen.problems import problems
from quadriga.codegen.sandbox.limits import Limits
from quadriga.codegen.sandbox.supervisor import Sandbox
known = problems("builtin")
with Sandbox(Limits(wall_s=20), tier=sys.argv[1]) as sandbox:
    kinds = [sandbox.run(problem, code).kind for problem in known.values() for code in (problem.canonical, "")]
    print(json.dumps([sandbox.isolation.user, kinds]))
"""
NAMELESS = """    import ctypes, os, struct, time
    create, start = {"x86_64": (222, 223), "aarch64": (107, 110)}[os.uname().machine]
    timer = ctypes.c_int()
    ctypes.CDLL(None).syscall(create, 1, struct.pack("PiiI", 0, 40, 0, 0).ljust(64, b"\\0"), ctypes.byref(timer))
    ctypes.CDLL(None).syscall(start, timer, 0, struct.pack("qqqq", 0, 0, 0, 1000000), None)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("code", "kind", "detail"),
    [
        ("    return 2 * x\n", "passed", ""),
        ("    return 2 * x if x < 5 else 0\n", "failed", "AssertionError: assert candidate(5) == 10"),
        ("    raise KeyError('no')\n", "failed", "KeyError: 'no'"),
        ("    return (\n", "failed", "SyntaxError: '(' was never closed (<solution>, line 2)"),
        ("    return 1 +\n", "failed", "SyntaxError: invalid syntax (<solution>, line 2)"),
        ("    return len\n", "failed", f"AssertionError: assert candidate(2) == 4 {NOT_DATA}"),
        ("    return bytearray(1 << 40)\n", "oom", "MemoryError"),
        ("    import os\n    os._exit(3)\n", "crashed", "exited with code 3 before its tests had ended"),
        ("    import ctypes\n    ctypes.string_at(0)\n", "crashed", "ended by SIGSEGV"),
        (NAMELESS, "crashed", "ended by signal 40"),
        ("    return 'x' * (5 << 20)\n", "failed", "the answer has 5,242,892 bytes where 4,194,304 are allowed"),
        ("    return 1\n\ndel double\n", "failed", "NameError: name 'double' is not defined"),
    ],
)  # fmt: skip
def test_verdict_and_reason(sandbox, doubling, code, kind, detail):
    verdict = sandbox.run(doubling, code)
    assert (verdict.kind, verdict.detail) == (kind, detail)


def test_the_line_of_a_bare_assertion_is_the_compiler_s(sandbox, doubling):
    problem = dataclasses.replace(doubling, tests=f"#\x0c#\x0c#\n{doubling.tests}")
    assert sandbox.run(problem, "    return 0\n").detail == "AssertionError: assert candidate(2) == 4"


def test_a_whole_program_needs_no_prompt(sandbox, doubling):
    assert sandbox.run(doubling, "def double(x):\n    return x + x\n", whole=True).passed
    assert not sandbox.run(doubling, "def double(x):\n    return x + x\n").passed


@pytest.mark.parametrize("mode", ["split", "inproc"])
@pytest.mark.parametrize(
    "code",
    [
        "    import time\n    time.sleep(1e6)\n",
        "    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n",
        "    return len(str(10 ** 10 ** 8))\n",
    ],
)
def test_the_wall_clock_ends_what_does_not_end(doubling, code, mode):
    with make(mode=mode, wall_s=0.5) as sandbox:
        verdict = sandbox.run(doubling, code)
        assert (verdict.kind, verdict.detail) == ("timeout", "more than 0.5 s")
        assert sandbox.run(doubling, doubling.canonical, Limits(wall_s=20)).passed


def test_cpu_time_ends_what_the_wall_clock_would_let_run(doubling):
    with make(cpu_s=1) as sandbox:
        verdict = sandbox.run(doubling, "    while True: pass\n")
    assert (verdict.kind, verdict.detail) == ("timeout", "more than 1 s of CPU time")


@pytest.mark.parametrize("mode", ["split", "inproc"])
def test_every_canonical_solution_of_human_eval_passes(human_eval, mode):
    with make(mode=mode) as sandbox:
        wrong = [task for task, problem in human_eval.items() if not sandbox.run(problem, problem.canonical).passed]
    assert wrong == []


def test_the_tests_see_no_change_of_their_arguments(sandbox):
    problem = Problem(
        "Test/1", "def clear(x):\n", "clear", "", "", "given = [1, 2]\nassert clear(given) == 2\nassert given == [1, 2]"
    )
    assert sandbox.run(problem, "    n = len(x)\n    x.clear()\n    return n\n").passed


def test_exceptions_arrive_as_the_builtin_ones_that_they_are(sandbox):
    final = (
        "for given, kind in ((0, ValueError), (1, LookupError), (2, UnicodeError), (3, RuntimeError)):\n"
        "    try:\n        fail(given)\n    except kind as error:\n        assert 'reason' in str(error)\n"
        "    else:\n        raise AssertionError(given)"
    )
    code = (
        "    class Own(ValueError): pass\n    class Wrong(KeyError): pass\n    class Odd(BaseException): pass\n"
        "    text = UnicodeDecodeError('ascii', b'', 0, 1, 'reason')\n"
        "    raise [Own('reason'), Wrong('reason'), text, Odd('reason')][x]\n"
    )
    assert sandbox.run(Problem("Test/2", "def fail(x):\n", "fail", "", "", final), code).passed


def test_values_of_all_kinds_cross_both_ways(sandbox):
    final = (
        "for value in [(1, [2]), {1, 2}, frozenset({3}), {(1, 2): None}, b'x', 1j, 10**400, '\\ud800']:\n"
        "    assert echo(value) == value and type(echo(value)) is type(value)\n"
        "assert echo(value=2) == 2 and list(echo(iter([1]))) == [1]"
    )
    assert sandbox.run(Problem("Test/3", "def echo(value):\n", "echo", "", "", final), "    return value\n").passed


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("    import itertools\n    return itertools.chain(reversed(x), itertools.accumulate(x))\n", "passed"),
        ("    import itertools\n    return itertools.islice(itertools.cycle([2, 1, 1, 3]), 4)\n", "passed"),
        ("    import itertools\n    return itertools.cycle([2, 1, 1, 3])\n", "failed"),
    ],
)
def test_iterators_of_itertools_are_judged_by_what_they_yield(sandbox, code, kind):
    final = "answer = f([1, 2])\nassert iter(answer) is answer and list(answer) == [2, 1, 1, 3]"
    verdict = sandbox.run(Problem("Test/9", "def f(x):\n", "f", "", "", final), code)
    assert verdict.kind == kind, verdict


def test_solution_and_tests_have_the_same_chance_each_time(sandbox):
    final = "import random\nassert draw() == 0.8444218515250481\nassert random.random() == 0.8444218515250481"
    problem = Problem("Test/4", "def draw():\n", "draw", "", "", final)
    assert [sandbox.run(problem, "    import random\n    return random.random()\n").kind for _ in range(2)] == [
        "passed"
    ] * 2


@pytest.mark.parametrize(
    ("tests", "complaint"),
    [("def check(", "the tests cannot be compiled"), ("1 / 0", "the problem's tests fail by themselves: ZeroDivision")],
)
def test_a_broken_problem_is_no_fault_of_the_sample(sandbox, doubling, tests, complaint):
    verdict = sandbox.run(dataclasses.replace(doubling, tests=tests), doubling.canonical)
    assert verdict.kind == "infrastructure_error" and complaint in verdict.detail


def test_tests_that_hang_on_an_answer_are_ended_and_the_next_sample_is_judged(doubling):
    problem = dataclasses.replace(doubling, final="while double(1) == 3: pass\ncheck(double)")
    with make(wall_s=2.0) as sandbox:
        assert sandbox.run(problem, "    return 3\n").kind == "timeout"
        assert sandbox.run(problem, doubling.canonical, Limits(wall_s=20)).passed


def test_checkers_of_many_problems_come_and_go(sandbox, doubling):
    several = [dataclasses.replace(doubling, task_id=f"Test/{n}") for n in range(40)]
    assert {sandbox.run(problem, doubling.canonical).kind for problem in several + several[:3]} == {"passed"}


def test_what_is_too_long_fails_and_what_is_just_long_runs(sandbox, doubling):
    verdict = sandbox.run(doubling, "#" * 10_000_000)
    assert (verdict.kind, verdict.detail) == ("failed", "10,000,000 characters where 4,194,304 are allowed")
    assert sandbox.run(doubling, doubling.canonical + "#" * 1_000_000).passed


def test_nothing_printed_reaches_anybody(sandbox, doubling, capfd):
    assert sandbox.run(doubling, "    print('x' * 10**6)\n    return 2 * x\n").passed
    assert capfd.readouterr() == ("", "")


def test_details_hold_nothing_that_a_terminal_obeys(sandbox, doubling):
    detail = sandbox.run(doubling, "    raise ValueError('\\x1b[2J\\r\\n\\ud800\\u202e' + 'x' * 10**6)\n").detail
    assert detail.isprintable() and len(detail) <= 400 and detail.startswith("ValueError: \\x1b[2J\\r\\n\\ud800\\u202e")
    assert printable("a" * 500).endswith("...")


def test_a_solution_that_ends_iteration_ends_no_loop_of_the_tests(sandbox):
    problem = Problem("Test/5", "def f(x):\n", "f", "", "", "assert all(map(lambda x: f(x) == x, [1, 2]))")
    verdict = sandbox.run(problem, "    raise StopIteration\n")
    assert (verdict.kind, verdict.detail) == ("failed", "StopIteration")


def test_tests_that_call_the_solution_while_they_are_defined_blame_it(sandbox):
    problem = Problem("Test/6", "def f():\n", "f", "", "LENGTH = len(f())", "assert LENGTH == 0")
    verdict = sandbox.run(problem, "    return 3\n")
    assert (verdict.kind, verdict.detail) == ("failed", "TypeError: object of type 'int' has no len()")
    assert sandbox.run(problem, "    return []\n").passed


def test_a_sample_that_closes_its_channel_has_crashed(sandbox, doubling):
    verdict = sandbox.run(doubling, "    import os\n    os.closerange(0, 99)\n    while True: pass\n")
    assert (verdict.kind, verdict.detail) == ("crashed", "closed its channel before its tests had ended")


@pytest.mark.parametrize(
    "said", [b"", b"passed", b"gone\n", b"infrastructure_error\n", b"failed\n\xff\n\x1b", b"x" * 9**5]
)
def test_inproc_takes_no_word_but_a_verdict(doubling, said):
    with make(mode="inproc") as sandbox:
        verdict = sandbox.run(
            doubling, f"    import os\n    os.write(3, {said[:40]!r} * {1 + len(said) // 41})\n    os._exit(0)\n"
        )
        assert verdict.kind in ("failed", "crashed") and verdict.detail.isprintable()
        assert sandbox.run(doubling, doubling.canonical).passed


def test_a_killed_zygote_is_replaced_and_its_samples_are_judged(doubling):
    with make() as sandbox:
        for token in range(3):
            sandbox.submit(supervisor.Job(token, doubling, doubling.canonical, sandbox.limits))
        os.kill(sandbox._zygote.process.pid, signal.SIGKILL)
        assert [sandbox.collect()[0] for _ in range(3)] == [0, 1, 2]
        assert sandbox.idle and sandbox.run(doubling, doubling.canonical).passed


def test_a_zygote_that_always_dies_is_an_infrastructure_error(doubling, monkeypatch):
    with make() as sandbox:
        monkeypatch.setattr(supervisor.Zygote, "receive", _dies)
        verdict = sandbox.run(doubling, doubling.canonical)
    assert (verdict.kind, verdict.detail) == ("infrastructure_error", "its zygote died 3 times")


def _dies(zygote):
    raise supervisor.ZygoteDied


@pytest.mark.parametrize("tier", ["namespaces", "landlock"])
def test_nothing_outlives_a_sandbox_whose_owner_is_killed(tier, doubling):
    make(tier).close()  # skips where there is no such tier
    script = (
        "import os, signal\n"
        "from quadriga.codegen.problems import Problem\n"
        "from quadriga.codegen.sandbox.limits import Limits\n"
        "from quadriga.codegen.sandbox.supervisor import Job, Sandbox\n"
        f"sandbox = Sandbox(Limits(wall_s=1000), tier={tier!r})\n"
        "problem = Problem('T', 'def f():\\n', 'f', '', '', 'f()')\n"
        "sandbox.submit(Job(0, problem, '    import time\\n    time.sleep(999)\\n', sandbox.limits))\n"
        "print(sandbox._zygote.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    group = int(done.stdout)  # the zygote leads a session, and what is inside stays in it
    wait_for(lambda: members(group) == [])


def wait_for(condition):
    for _ in range(1200):
        if condition():
            return
        select.select([], [], [], 0.05)
    raise AssertionError("it did not happen within a minute")


def members(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_closing_leaves_no_process(doubling):
    sandbox = make()
    sandbox.run(doubling, doubling.canonical)
    leader = sandbox._zygote.process.pid
    assert members(leader)
    sandbox.close()
    sandbox.close()
    wait_for(lambda: members(leader) == [])


def test_root_gives_its_rights_away(sandbox):
    if os.geteuid() != 0:
        pytest.skip("not root")
    assert sandbox.isolation.user == supervisor.NOBODY


@pytest.mark.parametrize("tier", ["namespaces", "landlock"])
def test_works_for_an_ordinary_user(tier):
    make(tier).close()
    done = run_as_ordinary_user(ORDINARY, tier)
    assert done.returncode == 0, done.stderr
    user, kinds = json.loads(done.stdout)
    assert user == USER
    assert set(kinds[::2]) == {"passed"} and set(kinds[1::2]) == {"failed"}


def test_works_for_the_root_of_a_container_that_has_no_other_user(doubling):
    make("namespaces").close()
    script = ORDINARY.partition("known =")[0] + "print(Sandbox(Limits(), tier=sys.argv[1]).isolation.tier)"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", script, "namespaces"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no such container here: {done.stderr.strip()}")
    assert done.stdout == "namespaces\n", done.stderr


def test_where_nothing_works_it_refuses_and_says_what_was_tried(monkeypatch):
    monkeypatch.setattr(
        supervisor, "plans", lambda tier, unsafe: [supervisor.Plan("namespaces", "/nowhere/python", None)]
    )
    with pytest.raises(UserError, match=r"no isolation works here \(namespaces: .*No such file.*--unsafe"):
        Sandbox()


def test_no_isolation_is_only_taken_when_it_is_asked_for():
    assert [plan.tier for plan in plans(None, unsafe=False)].count("none") == 0
    assert plans(None, unsafe=True)[-1].tier == "none"


@pytest.mark.parametrize(
    ("field", "value"), [("wall_s", 0), ("wall_s", float("nan")), ("memory_bytes", 1), ("scratch_files", 0)]
)
def test_limits_under_which_nothing_could_run_are_refused(field, value):
    with pytest.raises(UserError, match=f"limit {field}: expected"):
        Limits(**{field: value})


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match="mode: expected one of split, inproc, got 'fork'"):
        Sandbox(mode="fork")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this process may use one processor only")
def test_a_sample_leaves_its_tests_processor_when_it_is_long(sandbox, doubling):
    allowed = len(os.sched_getaffinity(0))
    tests = "def check(candidate):\n    assert candidate(0) == 1\n    while candidate(1) != {}:\n        pass\n"
    problem = dataclasses.replace(doubling, tests=tests.format(allowed))
    counting = "    import os\n    return len(os.sched_getaffinity(0))\n"
    assert sandbox.run(problem, counting).passed, "together at first, and apart before the time was over"


def test_a_sample_cannot_choose_its_processor(sandbox, doubling):
    verdict = sandbox.run(doubling, "    import os\n    os.sched_setaffinity(0, {0, 1})\n    return 2 * x\n")
    assert (verdict.kind, verdict.detail) == ("failed", "PermissionError: [Errno 1] Operation not permitted")
