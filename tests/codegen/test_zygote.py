"""The zygote by itself: a sample that has run gets a verdict, whatever becomes of the zygote's own code."""

import json
import subprocess
import sys

# In a process of its own, for a zygote forks: one job is in the socket before it serves, and then the end.
SERVE = """
import array, json, os, socket
from quadriga.codegen.sandbox import zygote

def unforeseen(status, usage, cpu_s):
    raise ArithmeticError("nobody has thought of this")

zygote.explain_end = unforeseen
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
for token, program in enumerate((b"import os; os._exit(3)", b"pass")):
    file = os.memfd_create("program")
    os.write(file, program)
    job = {"id": token, "problem": "p", "wall_s": 60, "cpu_s": 60, "size": len(program), "names": [], "tests_size": 0}
    descriptors = array.array("i", [file])
    ours.sendmsg([json.dumps(job).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
ours.shutdown(socket.SHUT_WR)
settings = {"mode": "inproc", "tier": "none", "output_bytes": 1000}
zygote.Zygote(theirs, settings, None).serve()
theirs.close()
while message := ours.recv(1 << 16):
    head, _, detail = message.partition(b"\\n")
    print(json.dumps([*json.loads(head)[:2], detail.decode()]))
"""


def test_a_sample_that_ends_as_nobody_has_foreseen_has_crashed_and_the_next_one_is_judged():
    done = subprocess.run([sys.executable, "-c", SERVE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [0, "crashed", "ended in an unforeseen way: ArithmeticError"],
        [1, "passed", ""],
    ]
