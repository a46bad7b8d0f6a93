"""numba without what packet code does not need: parts of a kernel are lowered once and optimised once, in the kernel.

numba optimises every function by itself, with everything that it calls linked in, makes machine code of it, and does so
again in each caller. A kernel has twenty small parts, so that cost four seconds. Here a part stays the IR that
lowering left; the kernel links all parts, of all depths, and LLVM sees them once. The passes that serve
parallel loops, closures, `with` and literal unrolling are left out too: the checker admits nothing for them to do.

Only imported when something is compiled.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

from llvmlite import binding
from numba import _dynfunc
from numba.core import funcdesc
from numba.core.cgutils import normalize_ir_text
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, _LowerResult
from numba.core.compiler_machinery import LoweringPass, PassManager, register_pass
from numba.core.debuginfo import DIBuilder
from numba.core.lowering import Lower
from numba.core.typed_passes import (
    AnnotateTypes,
    IRLegalization,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import (
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    ReconstructSSA,
    TranslateByteCode,
)


@ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
def _no_call(*_: Any) -> Any:
    raise TypeError("a part of a packet function has no machine code of its own")


_NO_CALL = ctypes.cast(_no_call, ctypes.c_void_p).value


_NO_WRAP = re.compile(r"\b(add|sub|mul|shl) nsw ")


class PartLibrary(JITCodeLibrary):
    """The code of one function, never optimised nor made machine code by itself. `texts`: in LLVM's language."""

    def __init__(self, codegen: Any, name: str) -> None:
        super().__init__(codegen, name)
        self.texts: list[str] = []

    def add_ir_module(self, module: Any) -> None:
        # numba promises LLVM that signed numbers never overflow (nsw), and LLVM draws conclusions from it. Here they
        # wrap around, the same on every target.
        self.add_text(_NO_WRAP.sub(r"\1 ", normalize_ir_text(str(module))), module.name)

    def add_text(self, text: str, name: str = "") -> None:
        """Add a module of LLVM's language."""
        self.texts.append(text)
        parsed = binding.parse_assembly(text)
        parsed.name = name or self.name
        parsed.verify()
        self.add_llvm_module(parsed)

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        self._finalized = True

    def parts(self) -> list[Any]:
        """Return this library and all that it needs, each once."""
        found: dict[Any, None] = {self: None}
        for library in self._linking_libraries:
            found.update(dict.fromkeys(library.parts() if isinstance(library, PartLibrary) else [library]))
        return list(found)


SELDOM: set[Any] = set()
"""Code objects of functions that are called rather than inlined."""
OFTEN: set[Any] = set()
"""Code objects of functions that are always inlined."""


note_lines = False
"""Whether the user's functions are lowered with the lines that their instructions come from (`bpf.lines`)."""


class _Lines(DIBuilder):
    """Notes lines, and nothing of variables."""

    def mark_variable(self, *_: Any, **__: Any) -> None:
        pass


class _PartLower(Lower):
    def __init__(
        self, context: Any, library: Any, described: Any, func_ir: Any, metadata: Any = None
    ) -> None:
        super().__init__(context, library, described, func_ir, metadata=metadata)
        if note_lines and func_ir.func_id.func.__module__.startswith("raceway.packet_function."):
            self.debuginfo = _Lines(
                module=self.module, filepath=func_ir.loc.filename, cgctx=context, directives_only=True
            )

    def setup_function(self, described: Any) -> None:
        super().setup_function(described)
        code = self.func_ir.func_id.func.__code__
        wish = "noinline" if code in SELDOM else "alwaysinline" if code in OFTEN else "inlinehint"
        self.function.attributes.add(wish)


@register_pass(mutates_CFG=True, analysis_only=False)
class PartLowering(LoweringPass):
    """Lowers a part: no wrappers, no executable."""

    _name = "packet_part_lowering"

    def __init__(self) -> None:
        LoweringPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        context = state.targetctx
        library = PartLibrary(context.codegen(), state.func_id.func_qualname)
        state.library = library
        flags = state.flags
        described = funcdesc.PythonFunctionDescriptor.from_specialized_function(
            state.func_ir, state.typemap, state.return_type, state.calltypes, mangler=context.mangler,
            inline=flags.forceinline, noalias=flags.noalias, abi_tags=[flags.get_mangle_string()],
        )  # fmt: skip
        with context.push_code_library(library):
            lower = _PartLower(context, library, described, state.func_ir, metadata=state.metadata)
            lower.lower()

        # What Python would call, which nobody does: numba only wants an object that is different for each function.
        part = _dynfunc.make_function(
            described.lookup_module(), described.qualname, "", _NO_CALL, lower.env, (library,)
        )
        context.insert_user_function(part, described, [library])
        state["cr"] = _LowerResult(described, lower.call_helper, cfunc=part, env=lower.env)
        return True


class PartCompiler(CompilerBase):
    """The passes that a part goes through."""

    def define_pipelines(self) -> list[Any]:
        passes = PassManager("packet part")
        for one, what in (
            (TranslateByteCode, "read the bytecode"),
            (FixupArgs, "fix up arguments"),
            (IRProcessing, "process"),
            (GenericRewrites, "constant indexes"),
            (ReconstructSSA, "one assignment each"),
            (NopythonTypeInference, "types"),
            (PreLowerStripPhis, "strip phis"),
            (IRLegalization, "legalise"),
            (AnnotateTypes, "annotate"),
            (PartLowering, "lower"),
            (NoPythonBackend, "finish"),
        ):
            passes.add_pass(one, what)
        passes.finalize()
        return [passes]
