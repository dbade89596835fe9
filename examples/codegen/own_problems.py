"""A problem set of your own, and samples to judge by it: two files in HumanEval's format.

python examples/codegen/own_problems.py
quadriga code execute own_samples.jsonl --problems own_problems.jsonl --k 1,2

A problem is a prompt that a model continues, a function's name, and a program `check(candidate)` that a wrong
solution fails; `canonical_solution` is a right one. A model of yours writes samples with

quadriga code sample --problems own_problems.jsonl -n 2 --temperature 0.8 -o written.jsonl
"""

from __future__ import annotations

import json
from pathlib import Path

MEDIAN = '''\
def median(numbers: list[float]) -> float:
    """The middle one of the sorted numbers; of an even count, the mean of the middle two.

    >>> median([3, 1, 2])
    2
    """
'''
MEDIAN_SOLUTION = """\
    ordered, middle = sorted(numbers), len(numbers) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
"""
MEDIAN_TEST = """\
def check(candidate):
    assert candidate([3, 1, 2]) == 2
    assert candidate([4, 1, 2, 3]) == 2.5
    assert candidate([7]) == 7
"""

CAESAR = '''\
def caesar(text: str, shift: int) -> str:
    """Moves each letter of the alphabet on by `shift`, around its end; keeps case, and what is no letter.

    >>> caesar("xyz!", 1)
    'yza!'
    """
'''
CAESAR_SOLUTION = """\
    def moved(letter, first):
        return chr((ord(letter) - ord(first) + shift) % 26 + ord(first))

    return "".join(
        moved(c, "a") if "a" <= c <= "z" else moved(c, "A") if "A" <= c <= "Z" else c for c in text
    )
"""
CAESAR_TEST = """\
def check(candidate):
    assert candidate("xyz!", 1) == "yza!"
    assert candidate("Hello, World", 13) == "Uryyb, Jbeyq"
    assert candidate(candidate("Any Text.", 5), -5) == "Any Text."
"""

PROBLEMS = [
    {
        "task_id": f"Own/{number}",
        "entry_point": name,
        "prompt": prompt,
        "canonical_solution": solution,
        "test": test,
    }
    for number, (name, prompt, solution, test) in enumerate(
        [
            ("median", MEDIAN, MEDIAN_SOLUTION, MEDIAN_TEST),
            ("caesar", CAESAR, CAESAR_SOLUTION, CAESAR_TEST),
        ]
    )
]

SAMPLES = [
    {"task_id": "Own/0", "completion": "    return sorted(numbers)[len(numbers) // 2]\n"},
    {"task_id": "Own/0", "completion": "    import statistics\n    return statistics.median(numbers)\n"},
    {"task_id": "Own/1", "completion": CAESAR_SOLUTION},
    {"task_id": "Own/1", "completion": "    return ''.join(chr(ord(c) + shift) for c in text)\n"},
]


def write(rows: list[dict[str, str]], path: Path) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write(PROBLEMS, Path("own_problems.jsonl"))
    write(SAMPLES, Path("own_samples.jsonl"))
    print("own_problems.jsonl, own_samples.jsonl")
