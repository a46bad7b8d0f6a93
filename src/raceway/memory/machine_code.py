"""Machine code without numba: LLVM IR in, functions out, and kept on disk so that the next start needs no compiler.

Importing numba takes longer than many a tool's whole work. What is made here is an object file, `int64 f(int64)` by
name, and llvmlite alone loads it:

    kept("name", key, make)     from the cache if it is there and sound, otherwise from make()'s IR, compiled and kept
    of_entries(entries)         the IR of entries (`jit`), for make: this is the place that needs numba

A kept file lies in the cache's directory (`jit.cache_directory`), which no other user can write, and whose name stands
for the package's sources, the versions of the compiler and the processor. It begins with a digest of the rest; one that
does not fit (a disk that was full, a bit that fell over) is compiled and written anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raceway.memory.jit import cache_directory, numba_options

if TYPE_CHECKING:
    from raceway.memory.jit import Entry

_DIGEST = 16
_KEPT = 200
"""Kept files, of which the oldest are removed: users' expressions are without end."""


class MachineCode:
    """Functions `int64 f(int64)` of an object file, alive as long as this object."""

    def __init__(self, data: bytes) -> None:
        from llvmlite import binding

        host, _ = _host()
        empty = binding.parse_assembly("")
        self._engine = binding.create_mcjit_compiler(empty, host())
        self._engine.add_object_file(binding.ObjectFileRef.from_data(data))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """The address of a function; KeyError if it is not there."""
        found: int = self._engine.get_function_address(name)
        if not found:
            raise KeyError(name)
        return found

    def function(self, name: str) -> Callable[[int], int]:
        """A function as Python calls it, without the interpreter's lock."""
        made: Callable[[int], int] = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(self.address(name))
        return made


@cache
def _host() -> tuple[Callable[[], Any], str]:
    """(what makes a target machine for this processor, the target's triple)."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    triple = binding.get_default_triple()
    target, name = binding.Target.from_default_triple(), binding.get_host_cpu_name()
    features = binding.get_host_cpu_features().flatten()

    # Each engine takes a machine of its own with it when it goes.
    def make() -> Any:
        return target.create_target_machine(cpu=name, features=features, opt=3, jit=True)

    return make, triple


def optimised(text: str) -> Any:
    """A module of LLVM IR, checked and optimised for this processor."""
    from llvmlite import binding

    make, triple = _host()
    machine = make()
    parsed = binding.parse_assembly(text)
    parsed.triple, parsed.data_layout = triple, str(machine.target_data)
    parsed.verify()
    tuning = binding.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = tuning.slp_vectorization = False
    tuning.loop_unrolling = False
    passes = binding.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(parsed, passes)
    return parsed


def assembly(text: str) -> str:
    """What a module becomes, as assembly."""
    return str(_host()[0]().emit_assembly(optimised(text)))


def compiled(text: str) -> bytes:
    """The object file of a module of LLVM IR."""
    data: bytes = _host()[0]().emit_object(optimised(text))
    return data


def kept(name: str, key: bytes, make: Callable[[], str]) -> MachineCode:
    """The machine code of a module, from the cache if it is there.

    key: what the code depends on besides the package itself. make: the module's LLVM IR, asked for if it is not there.
    """
    directory = cache_directory()
    if directory is None:
        return MachineCode(compiled(make()))
    path = directory / f"{name}-{hashlib.blake2b(key, digest_size=_DIGEST).hexdigest()}.object"
    data = _read(path)
    if data is None:
        data = compiled(make())
        _write(path, data)
    return MachineCode(data)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data[_DIGEST:] if data[:_DIGEST] == _digest(data[_DIGEST:]) else None


def _write(path: Path, data: bytes) -> None:
    """Keep a file, whole or not at all; where that cannot be, the next start compiles again."""
    with contextlib.suppress(OSError):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_digest(data) + data)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        found = sorted(path.parent.glob("*.object"), key=lambda one: one.stat().st_mtime)
        for old in found[:-_KEPT]:
            old.unlink()


def of_entries(entries: Mapping[str, Entry]) -> str:
    """LLVM IR with each entry as `int64 name(int64)`; a call that fails in compiled code returns -1, as none should."""
    import numba
    from llvmlite import binding

    # Records are known to the compiler once this is there.
    import_module("raceway.memory.lowering")
    whole = None
    for name, entry in entries.items():
        dispatcher = numba.njit(**numba_options())(entry.python)
        dispatcher.compile("int64(int64)")
        (result,) = dispatcher.overloads.values()
        inside = result.fndesc.mangled_name
        text = result.library.get_llvm_str() + _caller(name, inside)
        module = binding.parse_assembly(text)
        for function in module.functions:
            if not function.is_declaration and function.name != name:
                function.linkage = "internal"
        if whole is None:
            whole = module
        else:
            whole.link_in(module)
    return str(whole)


def _caller(name: str, inside: str) -> str:
    """numba's own functions return a status, and what they return through a pointer."""
    return f"""
define i64 @{name}(i64 %argument) {{
  %result = alloca i64
  %error = alloca ptr
  store i64 0, ptr %result
  store ptr null, ptr %error
  %status = call i32 @"{inside}"(ptr %result, ptr %error, i64 %argument)
  %value = load i64, ptr %result
  %well = icmp eq i32 %status, 0
  %told = select i1 %well, i64 %value, i64 -1
  ret i64 %told
}}
"""
