"""Compiled twins of ordinary functions: how code that is written once runs in both worlds.

`twin(function)` is the same code object with other globals: every global that is a plain Python function is replaced
by its own twin, and the few in `REPLACED` by a native equal. So the Python function stays usable as it is, in the same
process. Only imported when something is compiled.

What compiled code reports instead of exceptions is the status with which a function returns:
"""

from __future__ import annotations

import builtins
import types as python_types
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import callconv
from numba.core.callconv import PythonErrorModel

from raceway.compile import checksums, head, locate
from raceway.compile.pipeline import OFTEN, SELDOM, PartCompiler

OUT_OF_BOUNDS = 2
"""Status of a load, store or index outside its bounds: IndexError. Above numba's own FIRST_USEREXC."""
ARITHMETIC = 3
"""Status of a division by zero: ZeroDivisionError."""
OTHER = 4
"""Status of a negative shift count and the like: ValueError."""


def fail(builder: Any, status: int) -> None:
    """Emit a return from the function with a status other than success."""
    builder.ret(ir.Constant(ir.IntType(32), status))


class _StatusErrorModel(PythonErrorModel):
    """Python's meaning of division by zero, told by a status alone: no pickled exception, no relocation in the code."""

    def fp_zero_division(self, builder: Any, exc_args: Any = None, loc: Any = None) -> bool:
        fail(builder, ARITHMETIC)
        return True


callconv.error_models["raceway"] = _StatusErrorModel

OPTIONS: dict[str, Any] = {
    "error_model": "raceway",
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "nogil": True,
}
"""How every function that works on a packet is compiled."""

REPLACED: dict[Any, Any] = {}
"""Native equals of Python objects that shared functions use as globals, by the object itself."""

SELDOM.update(function.__code__ for function in (*locate.SELDOM, *checksums.SELDOM))
OFTEN.update(function.__code__ for function in (*locate.OFTEN, *head.OFTEN))

_twins: dict[Callable[..., Any], Any] = {}


def compiled(function: Callable[..., Any]) -> Any:
    """Make a numba dispatcher with the options of packet code."""
    return numba.njit(pipeline_class=PartCompiler, **OPTIONS)(function)


def twin(function: Callable[..., Any]) -> Any:
    """Return the compiled twin of a function of this package that is written once for both worlds."""
    made = _twins.get(function)
    if made is None:
        code = function.__code__
        scope = {
            name: _native(function.__globals__, name) for name in _names(code) if name in function.__globals__
        }
        for name in _names(code) - set(scope):
            if getattr(builtins, name, None) in REPLACED:
                scope[name] = REPLACED[getattr(builtins, name)]
        copied = python_types.FunctionType(
            code, {**scope, "__name__": function.__module__}, function.__name__
        )
        copied.__module__ = function.__module__
        made = _twins[function] = compiled(copied)
    return made


def _names(code: python_types.CodeType) -> set[str]:
    return set(code.co_names)


def _native(scope: dict[str, Any], name: str) -> Any:
    value = scope[name]
    try:
        if value in REPLACED:
            return REPLACED[value]
    except TypeError:
        pass
    if isinstance(value, python_types.FunctionType):
        return twin(value)
    if isinstance(value, python_types.ModuleType):
        return _Module(value)
    return value


class _Module(python_types.ModuleType):
    """A module whose functions are twins, made when they are asked for: numba resolves `locate.transport` by it."""

    def __init__(self, module: python_types.ModuleType) -> None:
        super().__init__(module.__name__)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["_module"], name)
        return twin(value) if isinstance(value, python_types.FunctionType) else value


def signature(context: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Return the signature of a shared function's twin for these types, compiling it if that is the first time."""
    dispatcher = numba.core.types.Dispatcher(twin(function))
    return context.resolve_function_type(dispatcher, arguments, {})


def call(
    context: Any, builder: Any, function: Callable[..., Any], kinds: tuple[Any, ...], values: Any
) -> Any:
    """Emit a call of a shared function's twin; its error status is passed on."""
    dispatcher = numba.core.types.Dispatcher(twin(function))
    chosen = context.typing_context.resolve_function_type(dispatcher, kinds, {})
    implementation = context.get_function(dispatcher, chosen)
    casted = [
        context.cast(builder, value, have, want)
        for value, have, want in zip(values, kinds, chosen.args, strict=True)
    ]
    return implementation(builder, casted)
