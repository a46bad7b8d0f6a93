"""NetfilterQueue (PyPI), as its own example has it: bind a queue, accept every packet, until SIGINT.

    python nfqueue_pass.py QUEUE LENGTH

Says `ready` once it is bound, and at the end `took N packets`.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from netfilterqueue import NetfilterQueue  # type: ignore[import-not-found, unused-ignore]


def main() -> None:
    """Accept until stopped."""
    taken = 0

    def look(packet: Any) -> None:
        nonlocal taken
        taken += 1
        packet.accept()

    signal.signal(signal.SIGINT, signal.default_int_handler)
    queue = NetfilterQueue()
    queue.bind(int(sys.argv[1]), look, max_len=int(sys.argv[2]))
    print("ready", flush=True)
    try:
        queue.run()
    except KeyboardInterrupt:
        pass
    print(f"took {taken} packets", flush=True)
    queue.unbind()


if __name__ == "__main__":
    main()
