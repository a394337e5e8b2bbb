"""Keys and values of prompt prefixes: computed once for all requests with the same voice."""

import hashlib
from collections import OrderedDict

import numpy as np
from torch import Tensor

from engine.schedule.stats import PrefixStats

MIN_POSITIONS = 32  # below, computing again is cheaper than keeping
MAX_BYTES = 2**30  # some 30 voices of S1-mini with 10 s references, in bfloat16


class PrefixCache:
    """A cache of limited size, from which the least recently used prefixes are evicted.

    The key is the prefix itself, words *and* codes: two voices that say the same words have
    different entries.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.stats = PrefixStats()
        self._entries: OrderedDict[bytes, tuple[Tensor, Tensor]] = OrderedDict()

    @staticmethod
    def key(prompt: np.ndarray, prefix_length: int) -> bytes:
        """Digest the first positions of an int32 (1 + codebooks, positions) prompt.

        Returns:
            b"" if the prefix is too short to be kept.
        """
        if prefix_length < MIN_POSITIONS:
            return b""
        prefix = np.ascontiguousarray(prompt[:, :prefix_length])
        return hashlib.sha256(prefix.tobytes() + str(prefix.shape).encode()).digest()

    def get(self, key: bytes) -> tuple[Tensor, Tensor] | None:
        """Keys and values, (layers, kv heads, prefix, head_dim) each."""
        if not key:
            return None
        found = self._entries.get(key)
        if found is None:
            self.stats.misses += 1
            return None
        self.stats.hits += 1
        self._entries.move_to_end(key)
        return found

    def put(self, key: bytes, keys: Tensor, values: Tensor) -> None:
        """Keep a copy, unless it is over the limit by itself."""
        size = _num_bytes(keys, values)
        if not key or key in self._entries or size > self.max_bytes:
            return
        self._entries[key] = (keys.clone(), values.clone())
        self.stats.num_bytes += size
        self._evict()

    def limit(self, max_bytes: int) -> None:
        """Keep no more than this from now on."""
        self.max_bytes = max_bytes
        self._evict()

    def _evict(self) -> None:
        while self.stats.num_bytes > self.max_bytes:
            _, (old_keys, old_values) = self._entries.popitem(last=False)
            self.stats.num_bytes -= _num_bytes(old_keys, old_values)
            self.stats.evictions += 1


def _num_bytes(keys: Tensor, values: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in (keys, values))
