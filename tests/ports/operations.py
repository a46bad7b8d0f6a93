"""What can be done with rings, one byte an operation: right uses, swaps, and every wrong use."""

from __future__ import annotations

import sys

import numpy as np

import raceway


class Player:
    """Plays operations on the rings of some ports of one region."""

    def __init__(self, ports: list[raceway.Port], extra: np.ndarray) -> None:
        self.ports = ports
        self.rings = [ring for port in ports for ring in port.rings]
        self.extra = extra
        self.errors = self.moved = self.lost = 0

    def play(self, operation: int) -> None:
        kind, choice = operation & 15, operation >> 4
        ring = self.rings[choice % len(self.rings)]
        if kind < 6:
            self._advance(ring, kind + choice)
        elif kind < 9:
            self._sync(ring)
        elif kind == 9:
            self._swap_with_extra(ring, choice)
        elif kind == 10:
            self._swap_between(ring, self.rings[(choice * 7 + 1) % len(self.rings)])
        elif kind == 11 and ring.space:
            ring.cur = ring.next(ring.cur) if ring.cur != ring.tail else ring.cur
        elif kind == 12:
            ring.head = (ring.tail + 1 + choice) % ring.size if choice % 2 else choice - 8
            self._sync(ring)
        elif kind == 13:
            ring._record["tail"] = choice
            self._sync(ring)
        elif kind == 14 and ring.space:
            ring.slots["buffer"][ring.head] = (0, -1, 1 << 20, 2**31 - 1)[choice % 4]
            ring.advance(1)
            self._sync(ring)
        elif kind == 15 and ring.space and ring.transmit:
            ring.slots["length"][ring.head] = (-1, 1 << 20)[choice % 2]
            ring.advance(1)
            self._sync(ring)
            ring.slots["length"][ring.head] = 1

    def _advance(self, ring, count: int) -> None:
        count = min(count, ring.space)
        for step in range(count):
            if ring.transmit:
                slot = ring.slots[(ring.head + step) % ring.size]
                slot["length"], slot["offset"], slot["flags"] = 60, 0, 0
        if count:
            ring.advance(count)
            self.moved += count

    def _sync(self, ring) -> None:
        try:
            ring.sync()
        except raceway.RingError as error:
            self.errors += 1
            self.lost += "names buffer" in str(error)

    def _swap_with_extra(self, ring, choice: int) -> None:
        if ring.space and len(self.extra):
            slot, place = ring.slots[ring.head], choice % len(self.extra)
            mine, theirs = int(slot["buffer"]), int(self.extra[place])
            slot["buffer"], self.extra[place] = theirs, mine

    def _swap_between(self, ring, target) -> None:
        if ring.space and target.space and ring is not target:
            one, two = ring.slots[ring.head], target.slots[target.head]
            first, second = int(one["buffer"]), int(two["buffer"])
            one["buffer"], two["buffer"] = second, first

    def sent_is_received_or_queued(self, a: raceway.Port, b: raceway.Port) -> bool:
        """What went in is what came out and what is still on its way, in both directions."""
        for sender, receiver in ((a.tx[0], b.rx[0]), (b.tx[0], a.rx[0])):
            on_the_way = (int(sender._record["published"]) - int(receiver._kring["tail"])) % sender.size
            if sender.packets != receiver.packets + on_the_way:
                return False
        return True


def main() -> None:
    """The other process: `NAME SEED COUNT` plays on that end, "close" ends the round."""
    for line in sys.stdin:
        name, seed, count = line.split()
        port = raceway.open(name)
        port.sync()
        print("open", flush=True)
        player = Player([port], np.empty(0, np.int32))
        for operation in (
            np.random.default_rng(int(seed)).integers(0, 256, int(count), dtype=np.uint8).tolist()
        ):
            player.play(operation)
        print(f"done {player.lost}", flush=True)
        sys.stdin.readline()
        port.close()
        print("closed", flush=True)


if __name__ == "__main__":
    main()
