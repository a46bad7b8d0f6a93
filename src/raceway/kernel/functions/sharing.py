"""One state, wherever the function runs: a state object's words become an array of the kernel's, at the same address.

The object's memory is whole pages of its own. When a program in the kernel needs it, an array map (BPF_F_MMAPABLE) of
the same size gets what the words hold, and its pages are mapped over them: Python, machine code that has the address in
it, and eBPF all see the same bytes from then on, and nothing is ever copied between them.

    words   --- before --->  pages of this process
            --- after  --->  the map's pages  <--- programs

What a loop writes in the microseconds between the copy and the mapping is lost: share before loops run.
"""

from __future__ import annotations

from raceway.compile.state.words import State
from raceway.kernel.bpf.maps import Map
from raceway.kernel.bpf.system import MAP_MMAPABLE, MapKind
from raceway.memory.mapping import map_over


def shared(state: State) -> Map:
    """The map that holds a state object's words; made, and mapped under them, at the first call. Raises OSError."""
    # Also where the program was kept from before, and nothing was compiled.
    state.joined()
    if state.kernel_map is None:
        size = state.words.nbytes
        made = Map(MapKind.ARRAY, value_size=size, entries=1, name=_name(state), flags=MAP_MMAPABLE)
        try:
            memory = made.memory()
            memory[:size] = state.words.view("u1")
            map_over(state.address, len(memory), made.fd)
        except BaseException:
            made.close()
            raise
        state.kernel_map = made
    found: Map = state.kernel_map
    return found


def _name(state: State) -> str:
    return f"rw_{type(state).__name__}"[:15]
