"""Answers of a deterministic model, kept for requests that are equal to an earlier one.

It takes the place of Triton's response cache, whose keys are 64 bits that anybody can make collide,
so that one caller could be given the answer of another's request. A key here is the SHA-256 of all
that the answer depends on.
"""

import hashlib
from collections import OrderedDict

import numpy as np

from ensemble.serving.stand_in.batch import Arrays

PARAMETER = "ANSWER_CACHE_BYTES"  # of config.pbtxt; native backends ignore it and keep nothing


class AnswerCache:
    """Keeps the answers that were used last.

    Attributes:
        max_bytes: Of all answers together; 0: nothing is kept.
        hits, misses: So far.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self._answers: OrderedDict[bytes, Arrays] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> Arrays | None:
        """The answer of an equal request; its arrays must not be written to."""
        found = self._answers.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._answers.move_to_end(key)
        return found

    def put(self, key: bytes, answer: Arrays) -> None:
        """Keep a copy of an answer, unless it is over the limit by itself."""
        size = _num_bytes(answer)
        if key in self._answers or size > self.max_bytes:
            return
        # Copies: a view of one request's rows would keep the whole batch in memory.
        self._answers[key] = {name: array.copy() for name, array in answer.items()}
        self._bytes += size
        while self._bytes > self.max_bytes:
            self._bytes -= _num_bytes(self._answers.popitem(last=False)[1])


def key_of(arrays: Arrays) -> bytes:
    """Name a request by its inputs: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _num_bytes(answer: Arrays) -> int:
    return sum(array.nbytes for array in answer.values())
