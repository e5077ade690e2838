"""What kernels for a CPU are written in: vectors of floats, and the loops over rows and columns that carry them.

A kernel is a Python function that runs once, when it is compiled: each operation on these values writes one or a few
instructions of LLVM's intermediate representation. Vectors are explicit, so that nothing hangs on a compiler's finding
out that a loop can be vectorised, and LLVM needs milliseconds. :mod:`padless.kernels.native` compiles and calls.

    memory, bf16 or fp32  -- load -->  Vector, always fp32  -- store -->  memory, rounded to nearest even

Products and sums may be fused, which rounds once instead of twice; nothing else is reordered, and NaN stays NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from llvmlite import binding, ir

Element = Literal["float32", "bfloat16", "int32"]

_I1, _I16, _I32, _I64, _F32 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES: dict[Element, int] = {"float32": 4, "bfloat16": 2, "int32": 4}
_features = binding.get_host_cpu_features()
LANES = 32 if _features.get("avx512bw", False) else 16
"""Floats of a vector: two registers, so that two chains of operations run side by side."""
_ROUNDS_TO_BF16 = bool(_features.get("avx512bf16", False))
_FUSED = ("contract",)


class _Bfloat(ir.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


def _lanes(element: ir.Type) -> ir.VectorType:
    return ir.VectorType(element, LANES)


def _constants(element: ir.Type, value: float) -> ir.Constant:
    return ir.Constant(_lanes(element), [value] * LANES)


@dataclass(frozen=True)
class Whole:
    """A whole number known when the kernel runs: an index, a size."""

    builder: Any  # llvmlite has no types
    value: Any

    def _other(self, other: "Whole | int") -> Any:
        return ir.Constant(_I64, other) if isinstance(other, int) else other.value

    def __add__(self, other: "Whole | int") -> "Whole":
        return Whole(self.builder, self.builder.add(self.value, self._other(other)))

    def __sub__(self, other: "Whole | int") -> "Whole":
        return Whole(self.builder, self.builder.sub(self.value, self._other(other)))

    def __mul__(self, other: "Whole | int") -> "Whole":
        return Whole(self.builder, self.builder.mul(self.value, self._other(other)))

    def __floordiv__(self, other: "Whole | int") -> "Whole":
        return Whole(self.builder, self.builder.udiv(self.value, self._other(other)))

    def _chosen(self, sign: str, other: "Whole | int") -> "Whole":
        right = self._other(other)
        which = self.builder.icmp_signed(sign, self.value, right)
        return Whole(self.builder, self.builder.select(which, self.value, right))

    def at_most(self, other: "Whole | int") -> "Whole":
        """Return the smaller of the two."""
        return self._chosen("<", other)

    def at_least(self, other: "Whole | int") -> "Whole":
        """Return the larger of the two."""
        return self._chosen(">", other)

    def to_real(self) -> "Vector":
        """Return it in every lane."""
        return splat(self.builder, self.builder.sitofp(self.value, _F32))


@dataclass(frozen=True)
class Mask:
    """Which lanes something holds for."""

    builder: Any
    value: Any

    def __and__(self, other: "Mask") -> "Mask":
        return Mask(self.builder, self.builder.and_(self.value, other.value))

    def choose(self, where_true: "Vector | float", where_false: "Vector | float") -> "Vector":
        """Return one vector's lanes where it holds, the other's elsewhere."""
        values = (
            each.value if isinstance(each, Vector) else _constants(_F32, each) for each in (where_true, where_false)
        )
        return Vector(self.builder, self.builder.select(self.value, *values))


@dataclass(frozen=True)
class Vector:
    """LANES fp32 values."""

    builder: Any
    value: Any

    def _new(self, operation: str, other: "Vector | float", *, swapped: bool = False) -> "Vector":
        right = other.value if isinstance(other, Vector) else _constants(_F32, other)
        sides = (right, self.value) if swapped else (self.value, right)
        return Vector(self.builder, getattr(self.builder, operation)(*sides, flags=_FUSED))

    def __add__(self, other: "Vector | float") -> "Vector":
        return self._new("fadd", other)

    def __sub__(self, other: "Vector | float") -> "Vector":
        return self._new("fsub", other)

    def __rsub__(self, other: float) -> "Vector":
        return self._new("fsub", other, swapped=True)

    def __mul__(self, other: "Vector | float") -> "Vector":
        return self._new("fmul", other)

    def __truediv__(self, other: "Vector | float") -> "Vector":
        return self._new("fdiv", other)

    def __rtruediv__(self, other: float) -> "Vector":
        return self._new("fdiv", other, swapped=True)

    def _compare(self, sign: str, other: "Vector | float") -> Mask:
        right = other.value if isinstance(other, Vector) else _constants(_F32, other)
        return Mask(self.builder, self.builder.fcmp_ordered(sign, self.value, right))

    def __lt__(self, other: "Vector | float") -> Mask:
        return self._compare("<", other)

    def __gt__(self, other: "Vector | float") -> Mask:
        return self._compare(">", other)

    def equals(self, other: "Vector | float") -> Mask:
        """Return where both are the same number."""
        return self._compare("==", other)

    def _call(self, name: str, *more: Any, result: ir.Type | None = None, flags: tuple[str, ...] = ()) -> Any:
        arguments = [*more, self.value]
        full_name = f"llvm.{name}.v{LANES}f32"
        module = self.builder.module
        function = module.globals.get(full_name)
        if function is None:
            kind = ir.FunctionType(result or self.value.type, [each.type for each in arguments])
            function = ir.Function(module, kind, full_name)
        return self.builder.call(function, arguments, fastmath=flags)

    def sqrt(self) -> "Vector":
        """Return the square root of each lane."""
        return Vector(self.builder, self._call("sqrt"))

    def maximum(self, other: "Vector") -> "Vector":
        """Return the larger of each two lanes, NaN where either is."""
        return Vector(self.builder, self._call("maximum", other.value, flags=("nsz",)))

    def sum(self) -> "Vector":
        """Return the sum over the lanes, in every lane."""
        zero = ir.Constant(_F32, 0.0)
        total = self._call("vector.reduce.fadd", zero, result=_F32, flags=("reassoc",))
        return splat(self.builder, total)

    def max(self) -> "Vector":
        """Return the largest lane, in every lane."""
        return splat(self.builder, self._call("vector.reduce.fmaximum", result=_F32, flags=("nsz",)))

    def with_exponent_of(self, shifted: "Vector") -> "Vector":
        """Return each lane times 2^n, where n stands in the low bits of ``shifted`` (see vector_math.exp2)."""
        bits = [self.builder.bitcast(each.value, _lanes(_I32)) for each in (self, shifted)]
        exponent = self.builder.shl(bits[1], _constants(_I32, 23))
        return Vector(self.builder, self.builder.bitcast(self.builder.add(bits[0], exponent), _lanes(_F32)))

    def first(self) -> Any:
        """Return lane 0 as a float of LLVM's."""
        return self.builder.extract_element(self.value, ir.Constant(_I32, 0))


def splat(builder: Any, scalar: Any) -> Vector:
    """Return a vector with a float of LLVM's in every lane."""
    kind = _lanes(scalar.type)
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return Vector(builder, builder.shuffle_vector(single, single, _constants(_I32, 0)))


@dataclass(frozen=True)
class Columns:
    """The columns that one vector stands for; ``inside`` is None where they are all within the row."""

    start: Whole
    inside: Mask | None

    def within(self, first: Whole, stop: Whole) -> Mask:
        """Return which of the columns are in first <= column < stop."""
        builder = self.start.builder
        lanes = ir.Constant(_lanes(_I32), list(range(LANES)))
        ends = (builder.trunc((each - self.start).value, _I32) for each in (first, stop))
        low, high = (splat(builder, each).value for each in ends)
        after = builder.icmp_signed(">=", lanes, low)
        return Mask(builder, builder.and_(after, builder.icmp_signed("<", lanes, high)))


@dataclass(frozen=True)
class Memory:
    """The elements of one tensor. Offsets count elements from its beginning."""

    builder: Any
    pointer: Any
    element: Element

    def address(self, offset: Whole) -> Any:
        """Return where an element is, as a pointer of LLVM's."""
        byte = self.builder.mul(offset.value, ir.Constant(_I64, _BYTES[self.element]))
        return self.builder.gep(self.pointer, [byte], source_etype=ir.IntType(8))

    def load(self, offset: Whole, columns: Columns) -> Vector:
        """Return the elements of these columns of the row that begins at ``offset``; 0 for those beyond it."""
        kind = _lanes(_I16 if self.element == "bfloat16" else _F32)
        bits = self._load(self.address(offset + columns.start), kind, columns.inside)
        return Vector(self.builder, bits if self.element == "float32" else _widened(self.builder, bits))

    def _load(self, address: Any, kind: ir.VectorType, inside: Mask | None) -> Any:
        if inside is None:
            return self.builder.load(address, typ=kind, align=_BYTES[self.element])
        name = f"llvm.masked.load.v{LANES}{kind.element.intrinsic_name}.p0"
        arguments = [address, ir.Constant(_I32, _BYTES[self.element]), inside.value, ir.Constant(kind, None)]
        return self._intrinsic(name, kind, arguments)

    def store(self, offset: Whole, columns: Columns, vector: Vector) -> None:
        """Round the vector to the element's kind and put it there, but for columns beyond the row."""
        address, value = self.address(offset + columns.start), vector.value
        if self.element == "bfloat16":
            value = to_bf16(self.builder, value)
        if columns.inside is None:
            self.builder.store(value, address, align=_BYTES[self.element])
            return
        name = f"llvm.masked.store.v{LANES}{value.type.element.intrinsic_name}.p0"
        alignment = ir.Constant(_I32, _BYTES[self.element])
        self._intrinsic(name, ir.VoidType(), [value, address, alignment, columns.inside.value])

    def _intrinsic(self, name: str, result: ir.Type, arguments: list[Any]) -> Any:
        module = self.builder.module
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(result, [each.type for each in arguments]), name)
        return self.builder.call(function, arguments)

    def one(self, offset: Whole) -> Vector:
        """Return one fp32 element in every lane."""
        return splat(self.builder, self.builder.load(self.address(offset), typ=_F32, align=4))

    def put_one(self, offset: Whole, vector: Vector) -> None:
        """Put the first lane there, in fp32."""
        self.builder.store(vector.first(), self.address(offset), align=4)

    def whole(self, offset: Whole) -> Whole:
        """Return one int32 element."""
        return Whole(self.builder, self.builder.sext(self.builder.load(self.address(offset), typ=_I32, align=4), _I64))


def _widened(builder: Any, bits: Any) -> Any:
    """A bf16 is the upper half of an fp32."""
    upper = builder.shl(builder.zext(bits, _lanes(_I32)), _constants(_I32, 16))
    return builder.bitcast(upper, _lanes(_F32))


def to_bf16(builder: Any, value: Any) -> Any:
    """Return the upper halves of a vector of fp32, of any length, rounded to nearest even; a NaN stays one."""
    count = value.type.count
    whole, half, low = (ir.VectorType(each, count) for each in (_I32, _I16, _Bfloat()))
    if _ROUNDS_TO_BF16:
        return builder.bitcast(builder.fptrunc(value, low), half)

    def constant(number: int) -> ir.Constant:
        return ir.Constant(whole, [number] * count)

    bits = builder.bitcast(value, whole)
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    rounded = builder.add(builder.add(bits, constant(0x7FFF)), odd)
    is_nan = builder.fcmp_unordered("uno", value, value)
    upper = builder.lshr(builder.select(is_nan, constant(0x7FC00000), rounded), constant(16))
    return builder.trunc(upper, half)


@dataclass(frozen=True)
class Code:
    """Where a kernel is being written: its loops."""

    builder: Any
    thread: Whole  # which of the threads that share the rows this is

    def number(self, value: float) -> Vector:
        """Return a constant in every lane."""
        return Vector(self.builder, _constants(_F32, value))

    def whole(self, value: int) -> Whole:
        """Return a constant whole number."""
        return Whole(self.builder, ir.Constant(_I64, value))

    def each(self, first: Whole, stop: Whole, body: Callable[[Whole], None]) -> None:
        """Run ``body`` for first, first + 1, ... below ``stop``."""
        self._loop(first, stop, 1, (), lambda index: body(index) or ())

    def columns(
        self, stop: Whole, body: Callable[..., tuple[Vector, ...] | None], *start: float, first: Whole | None = None
    ) -> tuple[Vector, ...]:
        """Run ``body(columns, *carried)`` for the columns below ``stop``, LANES at once; it returns what it carries on.

        Args:
            stop: how many columns there are.
            body: gets columns and the values carried; lanes beyond the row carry on what they had.
            start: what is carried first.
            first: the first column; None for 0.
        """
        carried = tuple(self.number(each) for each in start)
        begin = first or self.whole(0)
        whole_vectors = begin + (stop - begin) // LANES * LANES
        carried = self._loop(begin, whole_vectors, LANES, carried, lambda at, *c: body(Columns(at, None), *c) or ())

        def rest(at: Whole, *before: Vector) -> tuple[Vector, ...]:
            inside = Columns(at, None).within(at, stop)
            after = body(Columns(at, inside), *before) or ()
            return tuple(inside.choose(new, old) for new, old in zip(after, before, strict=True))

        return self._loop(whole_vectors, stop, LANES, carried, rest)

    def _loop(
        self, first: Whole, stop: Whole, step: int, carried: tuple[Vector, ...], body: Callable[..., tuple[Vector, ...]]
    ) -> tuple[Vector, ...]:
        builder, function = self.builder, self.builder.function
        before = builder.block
        head, inner, after = (function.append_basic_block() for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(_I64)
        values = [builder.phi(_lanes(_F32)) for _ in carried]
        builder.cbranch(builder.icmp_signed("<", index, stop.value), inner, after)
        builder.position_at_end(inner)
        results = body(Whole(builder, index), *(Vector(builder, each) for each in values))
        end = builder.block
        following = builder.add(index, ir.Constant(_I64, step), flags=("nsw",))
        builder.branch(head)
        for phi, start, result in zip(
            (index, *values), (first, *carried), (Whole(builder, following), *results), strict=True
        ):
            phi.add_incoming(start.value, before)
            phi.add_incoming(result.value, end)
        builder.position_at_end(after)
        return tuple(Vector(builder, each) for each in values)
