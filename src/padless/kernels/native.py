"""Kernels for a CPU, compiled by LLVM where they first run: in milliseconds, without a compiler on disk.

    @kernel
    def add(code, row, x: Memory, low: Memory, out: Memory, width: Whole): ...      written once for one row

    add(num_rows, x, low, out, width)       every row; memory as tensors, sizes as ints, numbers as floats

A kernel is compiled for the dtypes it is called with and runs over the rows on torch's own threads: they belong to
libgomp, which is asked directly, so that no second pool of threads competes for the cores.

Tensors are passed as addresses. Who calls a kernel answers for shapes and for rows that lie one behind the other; the
functions of ``native_rows``, ``native_scores`` and ``native_logits`` do, and are what the rest of the package calls.
"""

import ctypes
import functools
import inspect
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from llvmlite import binding, ir
from torch import Tensor

from padless.kernels.vectors import Code, Element, Memory, Vector, Whole, splat

_ELEMENTS: dict[torch.dtype, Element] = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int32: "int32"}
_I32, _I64, _POINTER = ir.IntType(32), ir.IntType(64), ir.PointerType()
_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_GOMP_SYMBOLS = ("omp_get_thread_num", "omp_get_num_threads")
_LEAST_ROWS_OF_A_THREAD = 32
_compiling = threading.Lock()


def can_compute(dtype: torch.dtype) -> bool:
    """Return whether kernels read and write this dtype."""
    return dtype in (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class _Compiled:
    """Two entries of one kernel: all rows at once, and the share of the thread that calls it."""

    serial: Any
    parallel: int | None  # address


@dataclass(frozen=True)
class Kernel:
    """A kernel by what writes it. Calling it runs it."""

    write: Callable[..., None]
    kinds: tuple[type, ...]
    rows_of_a_thread: int
    variants: dict[tuple[torch.dtype, ...], _Compiled] = field(default_factory=dict)

    def __call__(self, num_rows: int, *arguments: Tensor | int | float, threads: int | None = None) -> None:
        """Run it for rows 0 to ``num_rows`` - 1, on so many threads; None takes :func:`num_threads`."""
        slots, dtypes = [num_rows], []
        for argument in arguments:
            if isinstance(argument, Tensor):
                slots.append(argument.data_ptr())
                dtypes.append(argument.dtype)
            elif isinstance(argument, int):
                slots.append(argument)
            else:
                slots.append(struct.unpack("<i", struct.pack("<f", argument))[0])
        compiled = self._variant(tuple(dtypes))
        packed = (ctypes.c_int64 * len(slots))(*slots)
        threads = threads or num_threads(num_rows, self.rows_of_a_thread)
        if threads == 1 or compiled.parallel is None:
            compiled.serial(packed)
        else:
            _gomp().GOMP_parallel(compiled.parallel, packed, threads, 0)

    def _variant(self, dtypes: tuple[torch.dtype, ...]) -> _Compiled:
        """Return the kernel for these dtypes, compiled once whichever thread asks first."""
        compiled = self.variants.get(dtypes)
        if compiled is None:
            with _compiling:
                compiled = self.variants.get(dtypes)
                if compiled is None:
                    compiled = self.variants[dtypes] = _compile(self, dtypes)
        return compiled


def kernel(write: Callable[..., None]) -> Kernel:
    """Make a kernel of a function of code, row, and arguments annotated Memory, Whole or Vector."""
    return _kernel(write, _LEAST_ROWS_OF_A_THREAD)


def kernel_of_large_rows(write: Callable[..., None]) -> Kernel:
    """Make a kernel as :func:`kernel` does, each of whose rows is work enough for a thread."""
    return _kernel(write, 1)


def _kernel(write: Callable[..., None], rows_of_a_thread: int) -> Kernel:
    kinds = tuple(each.annotation for each in list(inspect.signature(write).parameters.values())[2:])
    return Kernel(write, kinds, rows_of_a_thread)


def num_threads(num_rows: int, rows_of_a_thread: int = _LEAST_ROWS_OF_A_THREAD) -> int:
    """Return how many threads share so many rows: those of torch, if there are enough rows and they can be asked."""
    threads = min(torch.get_num_threads(), num_rows // rows_of_a_thread)
    return 1 if threads <= 1 or _gomp() is None else threads


@functools.cache
def _gomp() -> Any:
    """Return the libgomp that torch has loaded, or None where torch uses another library for its threads."""
    try:
        maps = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    paths = {line.split(None, 5)[5] for line in maps if "libgomp" in line}
    if len(paths) != 1:
        return None
    library = ctypes.CDLL(paths.pop())
    for symbol in _GOMP_SYMBOLS:
        binding.add_symbol(symbol, ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value or 0)
    library.GOMP_parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    library.GOMP_parallel.restype = None
    return library


@functools.cache
def _engine() -> tuple[Any, Any]:
    """Return the engine that holds what is compiled, and the machine it is compiled for."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    features = binding.get_host_cpu_features().flatten()
    machines = [target.create_target_machine(binding.get_host_cpu_name(), features, opt=2) for _ in range(2)]
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machines[0]), machines[1]


def _compile(kernel: Kernel, dtypes: tuple[torch.dtype, ...]) -> _Compiled:
    gomp = _gomp()
    engine, machine = _engine()
    name = f"{kernel.write.__name__}_{'_'.join(_ELEMENTS[dtype] for dtype in dtypes)}"
    module = binding.parse_assembly(str(_written(kernel, dtypes, name, gomp)))
    module.verify()
    tuning = binding.PipelineTuningOptions(speed_level=2)
    passes = binding.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(module, passes)
    engine.add_module(module)
    engine.finalize_object()
    serial = _ENTRY(engine.get_function_address(f"{name}_serial"))
    return _Compiled(serial, None if gomp is None else engine.get_function_address(f"{name}_parallel"))


def _written(kernel: Kernel, dtypes: tuple[torch.dtype, ...], name: str, gomp: Any) -> ir.Module:
    """Return the kernel's module: its rows, and what calls them."""
    module = ir.Module(name)
    rows = ir.Function(module, ir.FunctionType(ir.VoidType(), [_POINTER, _I64, _I64, _I64]), f"{name}_rows")
    rows.linkage = "internal"
    _write_rows(kernel, dtypes, rows)
    entries = ir.FunctionType(ir.VoidType(), [_POINTER])
    serial = ir.IRBuilder(ir.Function(module, entries, f"{name}_serial").append_basic_block())
    packed = serial.function.args[0]
    zero = ir.Constant(_I64, 0)
    serial.call(rows, [packed, zero, serial.load(packed, typ=_I64), zero])
    serial.ret_void()
    if gomp is not None:
        _write_parallel(module, rows, f"{name}_parallel")
    return module


def _write_parallel(module: ir.Module, rows: Any, name: str) -> None:
    """Write the entry that each of libgomp's threads calls: it takes its share of the rows."""
    builder = ir.IRBuilder(ir.Function(module, ir.FunctionType(ir.VoidType(), [_POINTER]), name).append_basic_block())
    packed = builder.function.args[0]
    asked = (ir.Function(module, ir.FunctionType(_I32, []), each) for each in _GOMP_SYMBOLS)
    number, count = (builder.sext(builder.call(each, []), _I64) for each in asked)
    all_rows = builder.load(packed, typ=_I64)
    following = builder.add(number, ir.Constant(_I64, 1))
    first, stop = (builder.udiv(builder.mul(all_rows, each), count) for each in (number, following))
    builder.call(rows, [packed, first, stop, number])
    builder.ret_void()


def _write_rows(kernel: Kernel, dtypes: tuple[torch.dtype, ...], function: Any) -> None:
    """Write the loop over rows: the arguments out of their slots, then the kernel's own code."""
    builder = ir.IRBuilder(function.append_basic_block())
    packed, first, stop, thread = function.args
    elements = iter(dtypes)
    arguments: list[Memory | Whole | Vector] = []
    for number, kind in enumerate(kernel.kinds, start=1):
        slot = builder.gep(packed, [ir.Constant(_I64, number)], source_etype=_I64)
        if kind is Memory:
            arguments.append(Memory(builder, builder.load(slot, typ=_POINTER), _ELEMENTS[next(elements)]))
        elif kind is Whole:
            arguments.append(Whole(builder, builder.load(slot, typ=_I64)))
        else:
            arguments.append(splat(builder, builder.load(slot, typ=ir.FloatType())))
    code = Code(builder, Whole(builder, thread))
    code.each(Whole(builder, first), Whole(builder, stop), lambda row: kernel.write(code, row, *arguments))
    builder.ret_void()
