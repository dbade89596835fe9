"""What the zygote runs once, so that no sample is the first to do it.

The first use of a part of the interpreter builds what later uses find: the caches of `typing`, the specialised byte
code of what reads and answers calls. A sample that is forked after that finds it too.
"""

from __future__ import annotations

import os

from quadriga.codegen.sandbox import sample, wire

PROGRAM = '''
from typing import Any, Dict, List, Optional, Tuple, Union
def candidate(numbers: List[int], text: str, *rest: Any) -> Optional[Tuple[int, str]]:
    """Words."""
    found: Dict[str, List[int]] = {}
    for index, number in enumerate(sorted(set(numbers), key=lambda value: -value)):
        if number % 2 == 0 and number > 0 or number in found:
            found.setdefault(str(number), []).append(index)
        elif not number:
            continue
        else:
            while number:
                number //= 2
    try:
        return sum(len(part) for part in found.values()), "".join(reversed(text.strip().lower().split()[0]))
    except (IndexError, KeyError) as error:
        return None
class Class:
    def __init__(self) -> None:
        self.value = {name: [0] * 2 for name in "ab"}
def check(candidate):
    assert candidate([3, 1, 2, 4], "Two words") == (2, "owt"), "message"
    assert abs(1.5 - 1.5) < 1e-6 and f"{1.5:.2f}" == "1.50"
    assert True, "message"
check(candidate)
Class()
'''
CALLS = 16


def run() -> None:
    """Runs a small solution with its tests, and sends what a call of it would."""
    exec(compile(PROGRAM, sample.FILE, "exec", dont_inherit=True), {"__name__": "warm_up"})
    read, write = os.pipe()
    for _ in range(CALLS):
        wire.send(write, wire.pack(wire.encode(("candidate", ([3, 1.5, "a", None, True], (1, 2)), {"key": [-1]}))))
        wire.decode(wire.unpack(wire.receive(read, 1 << 20)))
    os.close(read)
    os.close(write)
