"""State that packet functions keep: fixed capacity, one array of 64-bit words each, the same code in both worlds.

Any number of processors write and read them at once: native loops in threads, programs in the kernel, and Python. A
prefix table alone is written by Python only. What a reader sees of one entry is always whole; what it sees of several
entries is of about the same time.
"""

from raceway.compile.state.counters import Counters
from raceway.compile.state.hash_table import HashTable
from raceway.compile.state.prefix_table import PrefixTable
from raceway.compile.state.random import Random
from raceway.compile.state.token_bucket import TokenBucket

__all__ = ["Counters", "HashTable", "PrefixTable", "Random", "TokenBucket"]
