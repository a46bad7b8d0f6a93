"""State that packet functions keep: fixed capacity, one array of 64-bit words each, the same code in both worlds.

One writer, the loop that runs the function; any number of readers at the same time, Python among them. What a reader
sees of one entry is always whole; what it sees of several entries is of about the same time.
"""

from raceway.compile.state.counters import Counters
from raceway.compile.state.hash_table import HashTable
from raceway.compile.state.prefix_table import PrefixTable
from raceway.compile.state.token_bucket import TokenBucket

__all__ = ["Counters", "HashTable", "PrefixTable", "TokenBucket"]
