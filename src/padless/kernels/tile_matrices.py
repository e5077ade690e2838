"""Matrices as kernels in tile registers see them: where they lie, their products, and how they are laid out for these.

Legend: a *panel* is 32 columns of a matrix in pairs, one row of pairs behind the other.
"""

from collections.abc import Callable
from dataclasses import dataclass

from padless.kernels.tiles import EDGE, HALF_EDGE, add_product, transpose_halves, transpose_words, weave_rows
from padless.kernels.vectors import Code, Memory, Whole

PANEL = 2 * EDGE
"""Elements of a panel's row."""
Operand = tuple[Memory, Whole, Whole]


@dataclass(frozen=True)
class Matrix:
    """Where a matrix lies: elements from row to row are ``step``."""

    memory: Memory
    begin: Whole
    step: Whole

    def at(self, row: Whole, column: Whole | int = 0) -> Operand:
        """Return what a product needs to know of the matrix from there on."""
        return self.memory, self.begin + self.step * row + column, self.step

    def offset(self, row: Whole) -> Whole:
        """Return where a row begins."""
        return self.begin + self.step * row


def each_step(code: Code, stop: Whole, step: int, body: Callable[[Whole], None]) -> None:
    """Run ``body`` for 0, step, 2 step, ... below ``stop``."""
    code.each(code.whole(0), (stop + (step - 1)) // step, lambda index: body(index * step))


def rounded_up(number: Whole, step: int) -> Whole:
    """Return the next multiple of ``step``."""
    return (number + (step - 1)) // step * step


def products(
    code: Code,
    rows: Whole,
    columns: Whole,
    depth: Whole,
    operands: Callable[[Whole, Whole], tuple[Operand, Operand, Operand]],
    *,
    fresh: bool,
) -> None:
    """Write a product of multiples of 32 rows and columns; ``operands`` gives A, B and C from a row and column on."""

    def step(row: Whole, column: Whole) -> None:
        add_product(code, *operands(row, column), depth, fresh=fresh)

    each_step(code, rows, EDGE, lambda row: each_step(code, columns, EDGE, lambda column: step(row, column)))


def lay_words(code: Code, source: Matrix, target: Matrix, rows: Whole, width: Whole) -> None:
    """Write [rows, width] as [width / 2, rows] pairs."""

    def block(row: Whole, column: Whole) -> None:
        place = target.offset(column // 2) + row * 2
        transpose_words(
            code, source.memory, source.offset(row) + column, source.step, target.memory, place, target.step
        )

    each_step(code, rows, HALF_EDGE, lambda row: each_step(code, width, EDGE, lambda column: block(row, column)))


def lay_woven(
    code: Code, source: Matrix, target: Matrix, rows: Whole, width: Whole, valid: Whole | None = None
) -> None:
    """Write [rows, width] as [rows / 2, width] pairs; rows from ``valid`` on are 0 instead."""

    def lay(pair: Whole, left: Whole | None) -> None:
        def block(column: Whole) -> None:
            place, begin = target.offset(pair) + column * 2, source.offset(pair * 2) + column
            weave_rows(code, source.memory, begin, source.step, target.memory, place, left)

        each_step(code, width, EDGE, block)

    pairs = rows // 2
    whole_pairs = pairs if valid is None else valid.at_most(rows) // 2
    code.each(code.whole(0), whole_pairs, lambda pair: lay(pair, None))
    if valid is not None:
        code.each(whole_pairs, pairs, lambda pair: lay(pair, valid - pair * 2))


def lay_turned(code: Code, source: Matrix, target: Matrix, rows: Whole, width: Whole) -> None:
    """Write [rows, width] as [width, rows]."""

    def block(row: Whole, column: Whole) -> None:
        place = target.offset(column) + row
        transpose_halves(
            code, source.memory, source.offset(row) + column, source.step, target.memory, place, target.step
        )

    each_step(code, rows, HALF_EDGE, lambda row: each_step(code, width, EDGE, lambda column: block(row, column)))


def clear(code: Code, memory: Memory, begin: Whole, stop: Whole, first: Whole | None = None) -> None:
    """Write 0 to the elements from ``first`` (or 0) on and below ``stop``, counted from ``begin``."""
    nothing = code.number(0.0)
    code.columns(stop, lambda at: memory.store(begin, at, nothing), first=first)
