"""eBPF's form of the primitives (`compile.primitives`), and the program's entry, in LLVM's language.

What the program shares with whoever loaded it is one array of the kernel's, the control record::

    | simulated | time | port | ring | time offset | ... |  64 bytes
    | zeros, of which the verifier does not know that     |  up to 8 KiB (`loops`)
    | counters of processor 0 | its scratch | counters of processor 1 | ...  |  512 bytes each, 128 of them counters,
                                                                                by `COUNTERS`; the last is MORE

A processor runs one packet at a time, and so adds to its own counters, and lets functions hand each other words in its
scratch (`apart.room`), without a lock. It also keeps there how much of
the packet is not between `data` and `data_end`: what a driver has put into further buffers (jumbo frames, packets
merged on arrival). `len(packet)` counts it; the bytes are out of reach, and a function that asks for them is ABORTED.

`simulated`: time, port and ring are those of the record, and not the kernel's; `time offset`: what the kernel's TAI
clock is ahead of 1970's.
"""

from __future__ import annotations

from typing import NamedTuple

from raceway.compile.bpf.instructions import Instruction
from raceway.compile.headers import MAXIMUM_PACKET
from raceway.compile.state.words import State

TRIPLE = "bpfel"
LAYOUT = "e-m:e-p:64:64-i64:64-i128:128-n32:64-S128"
CONTROL = "raceway_control"
SECTION = "xdp"
SIMULATED, TIME, PORT, RING, TIME_OFFSET = 0, 8, 16, 24, 32
ZEROS_AT, COUNTERS_AT, COUNTERS_STRIDE = 64, 8192, 512
SCRATCH = 128
KEY, FLOW, TABLE_KEY = 0, 128, 192
"""Where in a processor's scratch, in bytes, parts are handed a packet's key, a flow, and a table's key."""
COUNTERS = (
    "ABORTED", "DROP", "PASS", "TX", "REDIRECT",
    "out_of_bounds", "arithmetic", "bad_verdict", "other_error", "loop_limit", "no_ring", "later_buffer",
)  # fmt: skip
"""Packets by verdict; why those that were ABORTED were; how many that were to go to a ring found none; and how many of
those out of bounds were packets in several buffers."""
MORE = SCRATCH - 8
"""Where, in a processor's counters, the bytes of its packet that are in further buffers stand."""
NEXT, SOCKETS = "raceway_next", "raceway_sockets"
"""Maps: the program that goes on with what passes (at 0, if there is one), and the AF_XDP socket of each queue."""


class Hook(NamedTuple):
    """Where the kernel calls a program. data, end: where the packet's first byte and its end stand in the context;
    interface, queue: and the numbers of those; context: the structure's name."""

    data: int
    end: int
    interface: int
    queue: int
    context: str


HOOKS = {"xdp": Hook(0, 4, 12, 16, "xdp_md"), "tcx": Hook(76, 80, 40, 12, "__sk_buff")}
"""xdp: what arrives, in the driver. tcx: what leaves, in the host's stack; DROP ends the packet there, and whatever
else is answered lets it go on."""

# Helpers, by their numbers in linux/bpf.h.
_PROCESSOR, _TAIL_CALL, _ADJUST_HEAD, _REDIRECT_MAP, _TIME_TAI = 8, 12, 44, 51, 208

_HEAD = f"""
target datalayout = "{LAYOUT}"
target triple = "{TRIPLE}"
"""

# Where LLVM shall not see through a number: it would turn "data + (length - 4)" into "end - 4", and the verifier adds
# nothing to the packet's end. Empty assembly in codegen, and without effects, so that the same is done once.
_BARRIER = 'call i64 asm "", "=r,0"(i64 {VALUE}) nounwind willreturn memory(none)'

# The same, where LLVM shall leave it: it would add an index to an address before a loop, and ask in the loop.
_STAYS = 'call i64 asm sideeffect "", "=r,0"(i64 {VALUE}) nounwind memory(inaccessiblemem: readwrite)'

# LLVM moves no load or store across this. The processor does not move loads across loads and stores across stores
# either: raceway's eBPF runs on x86-64 (Intel SDM, volume 3, 10.2.2), and the kernel's compiler keeps its order.
_FENCE = 'call void asm sideeffect "", "~{memory}"()'
# After a move, successful or not, the verifier forgets every pointer to the packet, and new ones come out of the
# context. It sees a pointer in what is loaded there as long as nobody computes with the 32 bits that LLVM believes them
# to be: so the empty assembly stands right behind, and is never merged with another's.
_LOADED = """%number = zext i32 %short to i64
  %pointer = inttoptr i64 %number to ptr
  %same = call ptr asm sideeffect "", "=r,0"(ptr %pointer) nomerge
  ret ptr %same"""

_PRIMITIVES = f"""
define i64 @raceway_length(ptr %data, ptr %end) alwaysinline {{
  %end_number = ptrtoint ptr %end to i64
  %data_number = ptrtoint ptr %data to i64
  %difference = sub i64 %end_number, %data_number
  %hidden = {_BARRIER.replace("{VALUE}", "%difference")}
  %place = call ptr @raceway_more()
  %more = load i64, ptr %place
  %length = add i64 %hidden, %more
  ret i64 %length
}}
define i64 @raceway_offset(i64 %offset) alwaysinline {{
  %same = {_BARRIER.replace("{VALUE}", "%offset")}
  ret i64 %same
}}
define i1 @raceway_far(i64 %offset, i64 %size) alwaysinline {{
  %limit = sub i64 {MAXIMUM_PACKET}, %size
  %far = icmp ugt i64 %offset, %limit
  ret i1 %far
}}
define ptr @raceway_place(ptr %data, i64 %offset, i64 %size) alwaysinline {{
  %checked = call i64 asm "", "=r,0,i"(i64 %offset, i64 %size) nounwind willreturn memory(none)
  %place = getelementptr i8, ptr %data, i64 %checked
  %same = call ptr asm "", "=r,0,i"(ptr %place, i64 %size) nounwind willreturn memory(none)
  ret ptr %same
}}
define i1 @raceway_over(ptr %data, ptr %end, i64 %offset, i64 %size, ptr %place) alwaysinline {{
  %behind = getelementptr i8, ptr %place, i64 %size
  %over = icmp ugt ptr %behind, %end
  ret i1 %over
}}
define i1 @raceway_beyond(i64 %index, i64 %count) alwaysinline {{
  %beyond = icmp uge i64 %index, %count
  ret i1 %beyond
}}
define i64 @raceway_within(i64 %index) alwaysinline {{
  %same = {_STAYS.replace("{VALUE}", "%index")}
  ret i64 %same
}}
define i64 @raceway_move(ptr %data, ptr %end, ptr %context, ptr %none, i64 %by) alwaysinline {{
  %error = call i64 inttoptr (i64 {_ADJUST_HEAD} to ptr)(ptr %context, i64 %by)
  %failed = icmp ne i64 %error, 0
  %moved = sext i1 %failed to i64
  ret i64 %moved
}}
define ptr @raceway_data(ptr %data, ptr %context, i64 %by, i64 %moved) alwaysinline {{
  %short = load i32, ptr %context
  {_LOADED}
}}
define ptr @raceway_end(ptr %end, ptr %context, i64 %moved) alwaysinline {{
  %place = getelementptr i8, ptr %context, i64 4
  %short = load i32, ptr %place
  {_LOADED}
}}
define ptr @raceway_scratch(ptr %stack, i64 %at) alwaysinline {{
  %processor = call ptr @raceway_more()
  %inside = add i64 %at, {SCRATCH - MORE}
  %place = getelementptr i8, ptr %processor, i64 %inside
  %is_near = icmp eq i64 %at, {{NEAR}}
  %chosen = select i1 %is_near, ptr %stack, ptr %place
  ret ptr %chosen
}}
define ptr @raceway_context_data(ptr %context) alwaysinline {{
  %place = getelementptr i8, ptr %context, i64 {{DATA}}
  %short = load i32, ptr %place
  %number = zext i32 %short to i64
  %pointer = inttoptr i64 %number to ptr
  ret ptr %pointer
}}
define ptr @raceway_context_end(ptr %context) alwaysinline {{
  %place = getelementptr i8, ptr %context, i64 {{END}}
  %short = load i32, ptr %place
  %number = zext i32 %short to i64
  %pointer = inttoptr i64 %number to ptr
  ret ptr %pointer
}}
define void @raceway_publish(ptr %place, i64 %value) alwaysinline {{
  {_FENCE}
  store volatile i64 %value, ptr %place
  {_FENCE}
  ret void
}}
define i64 @raceway_observe(ptr %place) alwaysinline {{
  {_FENCE}
  %value = load volatile i64, ptr %place
  {_FENCE}
  ret i64 %value
}}
define i64 @raceway_add(ptr %place, i64 %value) alwaysinline {{
  %old = atomicrmw add ptr %place, i64 %value seq_cst
  %sum = add i64 %old, %value
  ret i64 %sum
}}
define i64 @raceway_exchange(ptr %place, i64 %value) alwaysinline {{
  %old = atomicrmw xchg ptr %place, i64 %value seq_cst
  ret i64 %old
}}
define i1 @raceway_compare_exchange(ptr %place, i64 %expected, i64 %value) alwaysinline {{
  %pair = cmpxchg ptr %place, i64 %expected, i64 %value seq_cst seq_cst
  %done = extractvalue {{ i64, i1 }} %pair, 1
  ret i1 %done
}}
"""

_WHOLE_LENGTH = 188  # bpf_xdp_get_buff_len
# A packet stays on its processor, so LLVM may ask for its number once and keep it. Whether that or asking each time is
# less for the verifier to follow is different from function to function.
_MORE = f"""
define internal ptr @raceway_more() alwaysinline {{
  %processor_number = call i64 inttoptr (i64 {_PROCESSOR} to ptr)() {{ASKED}}
  %processor = and i64 %processor_number, {{PROCESSORS_MASK}}
  %line = mul i64 %processor, {COUNTERS_STRIDE}
  %start = getelementptr i8, ptr @{CONTROL}, i64 {COUNTERS_AT + MORE}
  %place = getelementptr i8, ptr %start, i64 %line
  ret ptr %place
}}
"""

_STATE = """
@raceway_words_{SERIAL} = external global i64
define ptr @raceway_state_{SERIAL}() alwaysinline {
  ret ptr @raceway_words_{SERIAL}
}
"""

# What the loop hands in elsewhere. Whoever does not use one has not computed it: LLVM drops calls without effects.
_GIVEN_DECLARED = "declare i64 @raceway_given_{NAME}(ptr) nounwind willreturn memory(none)\n"
_GIVEN = f"""
@{CONTROL} = external global [{COUNTERS_AT} x i8]
define i64 @raceway_given_time(ptr %context) alwaysinline {{
  %simulated = load i64, ptr @{CONTROL}
  %is = icmp ne i64 %simulated, 0
  br i1 %is, label %record, label %clock
record:
  %kept = load i64, ptr getelementptr (i8, ptr @{CONTROL}, i64 {TIME})
  ret i64 %kept
clock:
  %tai = call i64 inttoptr (i64 {_TIME_TAI} to ptr)()
  %offset = load i64, ptr getelementptr (i8, ptr @{CONTROL}, i64 {TIME_OFFSET})
  %now = sub i64 %tai, %offset
  ret i64 %now
}}
define i64 @raceway_given_port(ptr %context) alwaysinline {{
  %simulated = load i64, ptr @{CONTROL}
  %is = icmp ne i64 %simulated, 0
  br i1 %is, label %record, label %device
record:
  %kept = load i64, ptr getelementptr (i8, ptr @{CONTROL}, i64 {PORT})
  ret i64 %kept
device:
  %place = getelementptr i8, ptr %context, i64 {{INTERFACE}}
  %short = load i32, ptr %place
  %index = zext i32 %short to i64
  ret i64 %index
}}
define i64 @raceway_given_ring(ptr %context) alwaysinline {{
  %simulated = load i64, ptr @{CONTROL}
  %is = icmp ne i64 %simulated, 0
  br i1 %is, label %record, label %device
record:
  %kept = load i64, ptr getelementptr (i8, ptr @{CONTROL}, i64 {RING})
  ret i64 %kept
device:
  %place = getelementptr i8, ptr %context, i64 {{QUEUE}}
  %short = load i32, ptr %place
  %index = zext i32 %short to i64
  ret i64 %index
}}
"""

# struct xdp_md: data and data_end are its first two words. What the function's part gives back is a verdict, or a
# negative number for a failure.
_WHOLE = {
    "xdp": f"  %whole = call i64 inttoptr (i64 {_WHOLE_LENGTH} to ptr)(ptr %context)",
    "tcx": "  %whole_short = load i32, ptr %context\n  %whole = zext i32 %whole_short to i64",
}
_ANSWER_XDP = f"""
  switch i64 %verdict, label %done [
    i64 2, label %passed
    i64 4, label %redirected
  ]
passed:
  call i64 inttoptr (i64 {_TAIL_CALL} to ptr)(ptr %context, ptr @{NEXT}, i64 0)
  br label %done
redirected:
  %simulated = load i64, ptr @{CONTROL}
  %is = icmp ne i64 %simulated, 0
  br i1 %is, label %done, label %ring
ring:
  %queue_place = getelementptr i8, ptr %context, i64 16
  %queue_short = load i32, ptr %queue_place
  %queue = zext i32 %queue_short to i64
  %sent = call i64 inttoptr (i64 {_REDIRECT_MAP} to ptr)(ptr @{SOCKETS}, i64 %queue, i64 1)
  %none = icmp ne i64 %sent, 4
  br i1 %none, label %no_ring, label %done
no_ring:
  call void @raceway_count(i64 10)
  br label %done
done:
  %final = phi i64 [ %verdict, %decided ], [ %verdict, %passed ], [ %verdict, %redirected ], [ %sent, %ring ],
    [ 1, %no_ring ]
  %result = trunc i64 %final to i32
  ret i32 %result
}}
"""
# enum tcx_action_base: TCX_NEXT is -1, TCX_DROP 2.
_ANSWER_TCX = """  %drop = icmp eq i64 %verdict, 1
  %result = select i1 %drop, i32 2, i32 -1
  ret i32 %result
}
"""
_ANSWER = {"xdp": _ANSWER_XDP, "tcx": _ANSWER_TCX}
_ENTRY = f"""
declare i64 @raceway_decide(ptr, ptr, ptr)
define i32 @raceway_xdp(ptr %context) "no-builtins" section "xdp" {{
entry:
  %data_place = getelementptr i8, ptr %context, i64 {{DATA}}
  %data_short = load i32, ptr %data_place
  %data_number = zext i32 %data_short to i64
  %data = inttoptr i64 %data_number to ptr
  %end_place = getelementptr i8, ptr %context, i64 {{END}}
  %end_short = load i32, ptr %end_place
  %end_number = zext i32 %end_short to i64
  %end = inttoptr i64 %end_number to ptr
{{WHOLE}}
  %first = sub i64 %end_number, %data_number
  %hidden = {_BARRIER.replace("{VALUE}", "%first")}
  %more = sub i64 %whole, %hidden
  %more_place = call ptr @raceway_more()
  store i64 %more, ptr %more_place
  %found = call i64 @raceway_decide(ptr %context, ptr %data, ptr %end)
  switch i64 %found, label %decided [
    i64 {{BAD_VERDICT}}, label %bad
    i64 {{OUT_OF_BOUNDS}}, label %outside
    i64 {{ARITHMETIC}}, label %arithmetic
    i64 {{OTHER}}, label %other
  ]
bad:
  br label %failed
outside:
  %later_place = call ptr @raceway_more()
  %later = load i64, ptr %later_place
  %is_later = icmp ne i64 %later, 0
  br i1 %is_later, label %counted, label %failed
counted:
  call void @raceway_count(i64 11)
  br label %failed
arithmetic:
  br label %failed
other:
  br label %failed
failed:
  %reason = phi i64 [ 7, %bad ], [ 5, %outside ], [ 5, %counted ], [ 6, %arithmetic ], [ 8, %other ]
  call void @raceway_count(i64 %reason)
  br label %decided
decided:
  %verdict = phi i64 [ %found, %entry ], [ 0, %failed ]
  call void @raceway_count(i64 %verdict)
{{ANSWER}}
@{NEXT} = external global i64
@{SOCKETS} = external global i64
define internal void @raceway_count(i64 %which) alwaysinline {{
  %processor_number = call i64 inttoptr (i64 {{PROCESSOR}} to ptr)()
  %processor = and i64 %processor_number, {{PROCESSORS_MASK}}
  %line = mul i64 %processor, {{STRIDE}}
  %hidden = {_BARRIER.replace("{VALUE}", "%which")}
  %within = and i64 %hidden, 15
  %word = mul i64 %within, 8
  %offset = add i64 %line, %word
  %start = getelementptr i8, ptr @raceway_control, i64 {{AT}}
  %place = getelementptr i8, ptr %start, i64 %offset
  %old = load i64, ptr %place
  %new = add i64 %old, 1
  store i64 %new, ptr %place
  ret void
}}
"""


def control_size(processors: int) -> int:
    """Bytes of the control record for so many processors, a power of two."""
    return COUNTERS_AT + COUNTERS_STRIDE * processors


_ONCE = "nounwind willreturn memory(none)"


def _at(hook: str, text: str) -> str:
    where = HOOKS[hook]
    numbers = {"DATA": where.data, "END": where.end, "INTERFACE": where.interface, "QUEUE": where.queue}
    for name, number in numbers.items():
        text = text.replace(f"{{{name}}}", str(number))
    return text


def entry(codes: dict[str, int], processors: int, hook: str = "xdp") -> str:
    """The program around the function. codes: what `raceway_decide` returns for each kind of failure."""
    text = _ENTRY + _MORE.replace("{ASKED}", _ONCE) + f"@{CONTROL} = external global [{COUNTERS_AT} x i8]\n"
    numbers = {
        **codes, "PROCESSOR": _PROCESSOR, "PROCESSORS_MASK": processors - 1, "STRIDE": COUNTERS_STRIDE,
        "AT": COUNTERS_AT,
    }  # fmt: skip
    for name, number in numbers.items():
        text = text.replace(f"{{{name}}}", str(number))
    text = text.replace("{WHOLE}", _WHOLE[hook]).replace("{ANSWER}", _ANSWER[hook])
    return _HEAD + _at(hook, text)


def primitives(
    used: list[State], processors: int, *, once: bool, hook: str = "xdp", near: bool = False
) -> str:
    """The primitives that parts call. once: ask for the processor's number once; near: tables are asked in line, and
    their keys lie on the stack."""
    more = _MORE.replace("{PROCESSORS_MASK}", str(processors - 1)).replace("{ASKED}", _ONCE if once else "")
    more += f"@{CONTROL} = external global [{COUNTERS_AT} x i8]\n"
    return (
        _HEAD
        + _at(hook, _PRIMITIVES.replace("{NEAR}", str(TABLE_KEY if near else -1)))
        + more
        + "".join(_STATE.replace("{SERIAL}", str(state.serial)) for state in used)
    )


def given(hook: str = "xdp") -> str:
    """What the kernel hands in: linked when LLVM has dropped what is not used."""
    return _HEAD + _at(hook, _GIVEN)


def given_declarations(names: list[str]) -> str:
    """The same, as functions without effects."""
    return "".join(_GIVEN_DECLARED.replace("{NAME}", name) for name in names)


def loop_limit(processors: int, hook: str = "xdp") -> list[Instruction]:
    """What the main function does when a loop went on for too long: count, and ABORTED."""
    why, verdict = 8 * COUNTERS.index("loop_limit"), 8 * COUNTERS.index("ABORTED")
    return [
        Instruction(0x85, 0, 0, _PROCESSOR),  # call
        Instruction(0x57, 0x00, 0, processors - 1),  # r0 &= mask
        Instruction(0x27, 0x00, 0, COUNTERS_STRIDE),  # r0 *= stride
        Instruction(0x18, 0x01, 0, COUNTERS_AT, wide=0, note=CONTROL),  # r1 = the counters
        Instruction(0x0F, 0x01, 0, 0),  # r1 += r0
        Instruction(0x79, 0x12, why, 0),  # r2 = *(r1 + why)
        Instruction(0x07, 0x02, 0, 1),  # r2 += 1
        Instruction(0x7B, 0x21, why, 0),  # *(r1 + why) = r2
        Instruction(0x79, 0x12, verdict, 0),
        Instruction(0x07, 0x02, 0, 1),
        Instruction(0x7B, 0x21, verdict, 0),
        Instruction(0xB7, 0x00, 0, 0 if hook == "xdp" else -1),  # r0 = XDP_ABORTED or TCX_NEXT
        Instruction(0x95, 0, 0, 0),  # exit
    ]


# The loops of functions that are called are those of `locate`, and go round eight times at most. This is never run.
LOOP_LIMIT_APART = [Instruction(0xB7, 0x00, 0, 2), Instruction(0x95, 0, 0, 0)]
