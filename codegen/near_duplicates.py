"""Files that are nearly the same: MinHash signatures, bands, and the Jaccard similarity that they estimate.

Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3. With `b` bands of
`r` rows, two files with similarity `s` meet in some band with probability `1 - (1 - s^r)^b`; those
that do are compared by their whole signatures. Pure functions on arrays: numpy does in one pass what a
hash object a file does in many.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
from numpy.typing import NDArray

PRIME = np.uint64((1 << 61) - 1)
BANDS, ROWS = 16, 8
PERMUTATIONS = BANDS * ROWS
SHINGLE = 5
WORDS = re.compile(r"\w+|[^\w\s]")
CHUNK = 4096

_random = np.random.default_rng(20210707)
_A = _random.integers(1, 1 << 32, PERMUTATIONS, dtype=np.uint64)
_B = _random.integers(0, 1 << 32, PERMUTATIONS, dtype=np.uint64)

Signature = NDArray[np.uint32]


def signature(text: str) -> Signature:
    """MinHash of the text's shingles of five tokens: uint32 [128]."""
    words = WORDS.findall(text)
    count = max(1, len(words) - SHINGLE + 1)
    shingles = {zlib.crc32(" ".join(words[n : n + SHINGLE]).encode("utf-8", "surrogatepass")) for n in range(count)}
    values = np.fromiter(sorted(shingles), np.uint64, len(shingles))
    lowest = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(values), CHUNK):
        # a * x + b stays below 2^64 + 2^32: the wrap is part of the hash.
        hashed = (values[start : start + CHUNK, None] * _A + _B) % PRIME
        lowest = np.minimum(lowest, (hashed & np.uint64(0xFFFFFFFF)).min(0).astype(np.uint32))
    return lowest


def similarity(first: Signature, second: Signature) -> float:
    """Estimated Jaccard similarity of the shingles, to about 0.04 at 0.8."""
    return float((first == second).mean())


class Index:
    """Signatures seen so far; the first of a group of near duplicates is the one that is kept."""

    def __init__(self, threshold: float) -> None:
        """With the similarity from which files are near duplicates."""
        self._threshold = threshold
        self._bands: list[dict[bytes, list[int]]] = [{} for _ in range(BANDS)]
        self._kept: list[Signature] = []

    def seen(self, each: Signature) -> bool:
        """Whether a near duplicate was added before; if not, `each` is added."""
        keys = [each[band * ROWS : (band + 1) * ROWS].tobytes() for band in range(BANDS)]
        met = {place for band, key in zip(self._bands, keys, strict=True) for place in band.get(key, ())}
        if any(similarity(each, self._kept[place]) >= self._threshold for place in sorted(met)):
            return True
        for band, key in zip(self._bands, keys, strict=True):
            band.setdefault(key, []).append(len(self._kept))
        self._kept.append(each)
        return False
