"""What batch kernels of filters have in common, and the interpreted one.

A filter's batch kernel works on a `Batch` as a packet function's does: verdict PASS for a packet of which bytes are
accepted, DROP for another. A packet of another link type than the expression was compiled for (its metadata tell) is
ABORTED and counted as `other_error`: what its bytes mean to the filter nobody has said. `len` in an expression is the
length on the wire where the metadata know it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raceway.compile.kernel import InterpretedKernel, _memory
from raceway.compile.pcap_filter import interpreter
from raceway.compile.pcap_filter.program import NULL_EXPLICIT
from raceway.compile.verdicts import Verdict

if TYPE_CHECKING:
    from raceway.compile.pcap_filter.expression import Expression


class InterpretedFilterKernel(InterpretedKernel):
    """Runs the program packet by packet in plain Python."""

    def __init__(self, expression: Expression) -> None:
        super().__init__(expression)
        self.expression = expression
        self.moves_head = False

    def __call__(self, batch_address: int, /) -> int:
        from raceway.memory.layout import Batch, Metadata, Slot

        batch = Batch(batch_address)
        count: int = batch.count
        verdicts = _memory(batch.verdicts, count)
        for index in range(count):
            at = (batch.first + index) % batch.slot_count
            slot = Slot(batch.slots + at * Slot.size)
            wire = slot.length
            if batch.metadata:
                metadata = Metadata(batch.metadata + at * Metadata.size)
                if metadata.link_type not in (0, self.expression.link_type or NULL_EXPLICIT):
                    verdicts[index] = Verdict.ABORTED
                    batch.other_error = batch.other_error + 1
                    continue
                wire = metadata.wire_length or wire
            data: Any = _memory(batch.buffers + slot.buffer * batch.buffer_size + slot.offset, slot.length)
            accepted = interpreter.run(self.expression.program, data, wire)
            verdicts[index] = Verdict.PASS if accepted else Verdict.DROP
        return count
