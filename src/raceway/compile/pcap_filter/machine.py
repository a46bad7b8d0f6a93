"""From a module of LLVM IR to machine code, without numba: a filter's loop is small, and numba's own work would take
ten times as long as LLVM's. Only imported when something is compiled."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from llvmlite import binding, ir


@cache
def _host() -> tuple[Any, str, str]:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features().flatten()
    return binding.Target.from_default_triple(), binding.get_host_cpu_name(), features


def _target() -> Any:
    # Each engine takes a machine of its own with it when it goes.
    host, name, features = _host()
    return host.create_target_machine(cpu=name, features=features, opt=3, jit=True)


class Machine:
    """The machine code of one module, alive as long as this object."""

    def __init__(self, module: ir.Module, function: str) -> None:
        machine = _target()
        module.triple = binding.get_default_triple()
        module.data_layout = str(machine.target_data)
        parsed = binding.parse_assembly(str(module))
        parsed.verify()
        tuning = binding.create_pipeline_tuning_options(speed_level=2)
        tuning.loop_vectorization = tuning.slp_vectorization = False
        tuning.loop_unrolling = False
        passes = binding.create_pass_builder(machine, tuning)
        passes.getModulePassManager().run(parsed, passes)
        self._engine = binding.create_mcjit_compiler(parsed, machine)
        self._engine.finalize_object()
        self.address: int = self._engine.get_function_address(function)
        self.call: Any = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(self.address)
        self._parsed = parsed

    def text(self) -> str:
        """The machine code as assembly."""
        return str(_target().emit_assembly(self._parsed))
