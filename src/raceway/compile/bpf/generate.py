"""From a packet function's parts to eBPF: link, optimise, take the instructions out of the object file.

The parts are those that machine code is made of (`native.typed`). What is left to do takes LLVM some ten milliseconds:
all of it becomes one function, for the kernel's verifier follows pointers to a packet best where it sees them made; but
for parts that stand apart (`compile.apart`), which it walks once each.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from llvmlite import binding, ir
from numba.core.cgutils import normalize_ir_text

from raceway.compile import apart, headers, native, primitives
from raceway.compile.bpf import definitions, elf, lines
from raceway.compile.bpf.generated import Generated, Part, Reference
from raceway.compile.bpf.instructions import Instruction, assemble, bounded, functions, parse, reachable
from raceway.compile.bpf.loops import hidden_more, widened
from raceway.compile.errors import PacketFunctionError
from raceway.compile.lowering import MOVING, PACKET, moving
from raceway.compile.lowering_addresses import build
from raceway.compile.pipeline import PartLibrary
from raceway.compile.state.words import State

if TYPE_CHECKING:
    from raceway.compile.function import PacketFunction

_PROCESSOR = "v4"
_TARGET = re.compile(r"^target (triple|datalayout) = .*$", re.M)
_WISH = re.compile(r"(?<= )(noinline|inlinehint|alwaysinline)(?=\s)")
_CONSTANT_OFFSET = re.compile(r"^ *(%\S+) = (?:tail )?call i64 @raceway_offset\(i64 (-?\d+)\).*\n", re.M)
_CONSTANT_INDEX = re.compile(r"^ *(%\S+) = (?:tail )?call i64 @raceway_within\(i64 (-?\d+)\).*\n", re.M)
_CONSTANT_PLACE = re.compile(r"(?:tail )?call ptr @raceway_place\((ptr [^,()]+), i64 (-?\d+), i64 \d+\)")
_ARGUMENTS = 5
_USERS = re.compile(r"^define .*packet_function", re.M)
_HEADERS_ASKED = re.compile(r"call .*compile6locate\d+[a-z]")
_FINDS_HEADERS = re.compile(
    r"^(define .*compile6locate\d+(?:transport|ipv4|ipv6|network)B.*? )(?:alwaysinline|inlinehint)", re.M
)
_HEADERS_IN_LINE = 6
_TABLE_PART = re.compile(rf"{apart.PREFIX}(?=hash_table_|token_bucket_)")
_TABLE_ASKED = re.compile(rf'call .*@"?{apart.PREFIX}(?:hash_table|token_bucket)_')
_TABLES_IN_LINE = 2
_UNALIGNED = re.compile(r"^( *(?:%\S+ = load|store) .*), align 1(?=$|,)", re.M)
# What numba notes of an exception beside the status: nobody reads it, and it would be an argument of every function.
# (Where all is in line it is none, and costs nothing.)
_NOTED = re.compile(r'^  store .*\*\* %"excinfo"(?:,.*)?\n', re.M)
_PURE = re.compile(
    r"^declare (.*@\"?raceway_(?:given_\w+|length|context|scratch|offset|far|place|over|beyond|state_\d+)\"?\(.*\)).*$",
    re.M,
)
_STAYS = re.compile(r"^declare (.*@\"?raceway_within\"?\(.*\)).*$", re.M)
_APART = re.compile(rf'^(define linkonce_odr .*@"?{apart.PREFIX}.*\) )alwaysinline', re.M)
_CONTEXT = re.compile(r"^ *(%\S+) = (?:tail )?call ptr @raceway_context\(ptr .*\n", re.M)
_TAKES = {"c": "context", "n": "number"}
_byte_pointer = ir.IntType(8).as_pointer()


ARRANGEMENTS = 2
"""Ways to say the same. How many steps the verifier takes depends on such things as which register a number is in,
by a factor of two and more; so what it finds too complex in one way it may take in another."""


def generate(
    function: PacketFunction, processors: int, *, places: bool = False, arrangement: int = 0
) -> Generated:
    """Make eBPF of a packet function. processors: how many the control record has counters for, a power of two;
    places: say what line each instruction comes from, for which the function is lowered anew; arrangement: one of the
    `ARRANGEMENTS`.

    Raises PacketFunctionError.
    """
    if places:
        with lines.noted():
            typed = native.Typed(function)
    else:
        typed = native.typed(function)
    if function.hook != "xdp" and typed.packet == MOVING:
        raise PacketFunctionError(f"{function.name} moves the packet's head, and looks at what leaves")
    parts = typed.overload.library.parts()
    texts = [text for part in parts for text in getattr(part, "texts", [])]
    used = primitives.states_named("".join(texts))
    machine = _machine()
    module = binding.parse_assembly(definitions.entry(native.FAILURES, processors, function.hook))
    asked = sum(len(_HEADERS_ASKED.findall(text)) for text in texts if _USERS.search(text))
    large = asked > _HEADERS_IN_LINE
    # A part in line is quicker; several of a table's are too many ways, if not for LLVM then for the verifier.
    near = arrangement == 0 and sum(len(_TABLE_ASKED.findall(text)) for text in texts) <= _TABLES_IN_LINE
    if near:
        texts = [_TABLE_PART.sub("raceway_near_", text) for text in texts]
    stands_apart = any(apart.PREFIX in text for text in texts)
    for text in (_decide(typed), *texts):
        # What finds headers is large. In line, LLVM sees what was asked before; many times in line, it is too much.
        if stands_apart:
            text = _NOTED.sub("", text)
        module.link_in(_module(_FINDS_HEADERS.sub(r"\1noinline", text) if large else text))
    _inline(module)
    _forget_arguments(module, machine)
    _inline(module, arguments=_ARGUMENTS)
    _optimise(module, machine)
    text = widened(_with_context(str(module)))
    module = binding.parse_assembly(hidden_more(text) if large else _constant_offsets(text))
    for text in (
        definitions.primitives(
            used, processors, once=(arrangement == 0) != large, hook=function.hook, near=near
        ),
        definitions.given(function.hook),
    ):
        module.link_in(binding.parse_assembly(text))
    _inline(module, arguments=_ARGUMENTS)
    _optimise(module, machine)
    _check(function, module)
    sections = elf.read(machine.emit_object(module))
    code = sections[definitions.SECTION]
    wanted: dict[str, State | str] = {f"raceway_words_{state.serial}": state for state in used}
    wanted |= {name: name for name in (definitions.CONTROL, definitions.NEXT, definitions.SOCKETS)}
    made = parse(code.data)
    by_origin = {one.origin: one for one in made}
    for relocation in code.relocations:
        one = by_origin[relocation.offset // 8]
        name = relocation.symbol.name
        if name.startswith(apart.PREFIX):
            one.callee = by_origin[relocation.symbol.value // 8]
            continue
        if one.wide is None or name not in wanted:
            raise AssertionError(f"eBPF code wants {name!r}, which nobody has")
        one.note = wanted[name]
    made = bounded(
        reachable(made), [definitions.loop_limit(processors, function.hook), definitions.LOOP_LIMIT_APART]
    )
    raw = assemble(made)
    named = {place // 8: name for name, place in code.symbols.items() if name.startswith(apart.PREFIX)}
    references = [Reference(one.place, one.note, one.immediate) for one in made if one.note is not None]
    table = lines.read(sections) if places else []
    found = (
        tuple(lines.place_of(table, one.origin) for one in made for _ in range(one.slots)) if table else ()
    )
    return Generated(
        function.name,
        raw,
        tuple(references),
        tuple(used),
        processors,
        str(module),
        found,
        _parts(made, named),
    )


def _parts(made: list[Instruction], named: dict[int, str]) -> tuple[Part, ...]:
    """The program's functions, if there are some that stand apart. named: those, by their first instruction as LLVM
    numbered them."""
    parts = []
    for one in functions(made):
        name = named.get(one[0].origin, "")
        codes = [code for code in name.rpartition("__")[2].split("_") if code and code[0] in "cmn"]
        takes = tuple(_TAKES.get(code) or int(code[1:].partition("b")[0]) for code in codes)
        parts.append(Part(one[0].place, takes if name else None))
    return tuple(parts) if any(one.takes is not None for one in parts) else ()


def _check(function: PacketFunction, module: Any) -> None:
    """Refuse what LLVM's back end would end the process for."""
    for one in module.functions:
        if one.is_declaration and one.name.startswith(("llvm.memcpy", "llvm.memset", "llvm.memmove")):
            raise PacketFunctionError(f"{function.name} copies too much at once for eBPF ({one.name})")
        if not one.is_declaration and len(list(one.arguments)) > _ARGUMENTS:
            raise PacketFunctionError(
                f"a part of {function.name} takes more than eBPF's five arguments ({one.name})"
            )
    if re.search(r"= (?:mul|[su]div|[su]rem) i128 ", str(module)):
        raise PacketFunctionError(f"{function.name} computes with 128 bits, which eBPF cannot")


def _constant_offsets(text: str) -> str:
    """Offsets and indexes that have turned out to be constants stay those: the verifier and LLVM both know them."""
    pieces = []
    for function in re.split(r"(?<=^})$", text, flags=re.M):
        for pattern in (_CONSTANT_OFFSET, _CONSTANT_INDEX):
            for name, number in pattern.findall(function):
                function = re.sub(re.escape(name) + r"(?![\w.$-])", number, _line_of(name).sub("", function))
        pieces.append(_CONSTANT_PLACE.sub(r"getelementptr i8, \1, i64 \2", function))
    return "".join(pieces)


def _with_context(text: str) -> str:
    """The context for parts that take the packet from it anew. All that calls such a part has become the program."""
    pieces = []
    for function in re.split(r"(?<=^})$", text, flags=re.M):
        found = re.search(r"^define .*@raceway_xdp\(ptr [^)]*?(%[\w.]+)\)", function, re.M)
        if found:
            for name in _CONTEXT.findall(function):
                function = re.sub(
                    re.escape(name) + r"(?![\w.$-])", found[1], _line_of(name).sub("", function)
                )
        pieces.append(function)
    return "".join(pieces)


def _line_of(name: str) -> re.Pattern[str]:
    return re.compile(rf"^ *{re.escape(name)} = .*\n", re.M)


@cache
def _initialise() -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    # LLVM ends the process when a function wants more stack than the kernel has; the kernel only refuses it.
    binding.set_option("raceway", "-bpf-stack-size=65536")


def _machine() -> Any:
    _initialise()
    return binding.Target.from_triple(definitions.TRIPLE).create_target_machine(cpu=_PROCESSOR, opt=2)


def _module(text: str) -> Any:
    text = _TARGET.sub("", text)
    text = _APART.sub(r"\1noinline", text)
    text = _WISH.sub(rf'\1 "no-builtins" section "{definitions.SECTION}"', text)
    # Packets are looked at wherever their fields lie, and processors that XDP runs on can do that.
    text = _UNALIGNED.sub(r"\1", text)
    # llvmlite has no word for functions without effects, which LLVM drops, and calls once instead of twice.
    text = _PURE.sub(r"declare \1 nounwind willreturn memory(none)", text)
    text = _STAYS.sub(r"declare \1 nounwind willreturn memory(inaccessiblemem: readwrite)", text)
    return binding.parse_assembly(
        f'target datalayout = "{definitions.LAYOUT}"\ntarget triple = "{definitions.TRIPLE}"\n{text}'
    )


def _decide(typed: native.Typed) -> str:
    """The function `raceway_decide(context, data, end)` that calls the user's."""
    from numba.core.registry import cpu_target

    context = cpu_target.target_context
    library = PartLibrary(context.codegen(), "raceway_decide")
    module = library.create_ir_module("raceway_decide")
    kind = ir.FunctionType(ir.IntType(64), [_byte_pointer] * 3)
    function = ir.Function(module, kind, "raceway_decide")
    function.attributes.add("alwaysinline")
    builder = ir.IRBuilder(function.append_basic_block())
    xdp, data, end = function.args
    words = {"data": data, "end": end}
    for name in headers.GIVEN:
        given = ir.Function(module, ir.FunctionType(ir.IntType(64), [_byte_pointer]), f"raceway_given_{name}")
        words[name] = builder.call(given, [xdp])
    with context.push_code_library(library):
        if typed.packet == MOVING:
            packet = moving(builder, **words, first=xdp, last=ir.Constant(_byte_pointer, None))
        else:
            packet = build(context, builder, PACKET, words.values())
        found = native.verdict_or_failure(context, builder, typed.overload, packet)
    builder.ret(found)
    text: str = normalize_ir_text(str(module))
    return text


def _forget_arguments(module: Any, machine: Any) -> None:
    """Drop what no function looks at: numba hands everything on."""
    builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=1))
    passes = binding.create_new_module_pass_manager()
    passes.add_sccp_pass()
    passes.add_dead_arg_elimination_pass()
    passes.run(module, builder)
    builder.close()


def _inline(module: Any, arguments: int = 1 << 16) -> None:
    """Leave no function but the program's own to others. The user's helpers become part of it: a loop of theirs that
    is ended early ends the function. What else stays apart is for LLVM to weigh, but for what it has no registers."""
    for one in module.functions:
        if one.is_declaration or one.name == "raceway_xdp" or one.name.startswith(apart.PREFIX):
            continue
        one.linkage = "internal"
        wanted = "packet_function" in one.name or len(list(one.arguments)) > arguments
        if wanted and b"noinline" not in b" ".join(one.attributes):
            one.add_function_attribute("alwaysinline")


def _optimise(module: Any, machine: Any) -> None:
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = False
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    builder.close()
