"""Flows in compiled code. Imported to compile."""

from __future__ import annotations

from typing import Any

from numba.core import cgutils, types as numba_types

from raceway.compile import apart, lowering_state
from raceway.compile.classifier.lowering import KEY, fresh_key, key_place, method
from raceway.compile.flows import changes, tracking
from raceway.compile.flows.flow_table import FlowTable
from raceway.compile.lowering import PACKET, PacketType, current
from raceway.compile.lowering_addresses import constant
from raceway.compile.pipeline import SELDOM

SELDOM.update(function.__code__ for function in changes.SELDOM)
types: Any = numba_types  # numba fills this module in as it starts


def _lowered(function: Any) -> Any:
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        state: FlowTable = sig.args[0].state
        packet = current(context, builder, sig.args[1], args[1])
        now = cgutils.create_struct_proxy(PACKET)(context, builder, value=packet).time
        words = key_place(builder, args[2]) if len(args) > 2 else fresh_key(context, builder, packet)
        flow = apart.room(builder, apart.FLOW, tracking.FLOW_WORDS)
        builder.store(constant(1), builder.gep(flow.start, [constant(tracking.ANSWER)]))
        apart.call(
            context, builder, function, apart.Words(state, 0, state.new_at),
            apart.Words(state, state.new_at, state.new_words), apart.Packet(packet), words, flow, now,
        )  # fmt: skip
        answer = builder.load(builder.gep(flow.start, [constant(tracking.ANSWER)]))
        return builder.icmp_signed("!=", answer, constant(0))

    return lower


def _fits(args: Any) -> bool:
    return 1 <= len(args) <= 2 and isinstance(args[0], PacketType) and all(one == KEY for one in args[1:])


for _name, _function in (("arriving", tracking.arriving), ("leaving", tracking.leaving)):
    lowering_state.TEMPLATES[FlowTable, _name] = method(
        f"FlowTable.{_name}",
        types.boolean,
        _fits,
        "the packet, and its key if there is one",
        _lowered(_function),
    )
