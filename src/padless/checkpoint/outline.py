"""What a checkpoint's pickle would do, found out without doing it.

``torch.load(weights_only=True)`` runs no code from a file, but believes it: a storage that claims more elements than
its record has is read past its end, and a shape of any size is made. So the few instructions that ``torch.save`` writes
for tensors and plain values are followed here with stand-ins: nothing is imported, called or allocated. Everything else
is refused, and what it would have called is named. Another trainer's checkpoint may name a few things more; whoever
reads one gives the list, and what they would make stays a stand-in for good.
"""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_ITEM_BYTES = {
    "torch.BFloat16Storage": 2,
    "torch.BoolStorage": 1,
    "torch.ByteStorage": 1,
    "torch.CharStorage": 1,
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.HalfStorage": 2,
    "torch.IntStorage": 4,
    "torch.LongStorage": 8,
    "torch.ShortStorage": 2,
}
_REBUILD, _ORDERED = "torch._utils._rebuild_tensor_v2", "collections.OrderedDict"
ALLOWED = frozenset(_ITEM_BYTES) | {_REBUILD, _ORDERED}


class RefusedError(Exception):
    """Why a file is not read; says what is wrong with "it", the file."""


@dataclass(frozen=True)
class _Name:
    """Something the pickle names; never looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: str
    num_elements: int


@dataclass(frozen=True)
class TensorOutline:
    """A tensor that would be made, within its storage; sizes in elements."""

    storage_key: str
    kind: str  # class of its storage, such as "torch.FloatStorage"
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Inert:
    """Stands for whatever a name on the caller's list would have made."""

    name: str


@dataclass(frozen=True)
class Outline:
    """What a pickle describes: plain values, :class:`TensorOutline` for tensors, :class:`Inert` for the rest."""

    tree: Any
    storages: dict[str, int]  # bytes that each storage record must have, by its key


@dataclass
class _State:
    inert: frozenset[str]
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, int] = field(default_factory=dict)


def outline_of_pickle(data: bytes, inert: frozenset[str] = frozenset()) -> Outline:
    """Return what ``data`` describes.

    Args:
        data: the pickle.
        inert: names beyond tensors that it may call; nothing is called, the result is an :class:`Inert`.

    Raises:
        RefusedError: it names something that is not on the list, a tensor does not fit its storage, or it is no pickle
            of tensors and plain values.
    """
    strange = sorted({name for name in names_in_pickle(data) if name not in ALLOWED | inert})
    if strange:
        raise RefusedError(f"it would call {_some(strange)}")
    state, follow_also = _State(inert), _FOLLOW_INERT if inert else {}
    try:
        for opcode, argument, _ in pickletools.genops(data):
            follow = _FOLLOW.get(opcode.name) or follow_also.get(opcode.name)
            if follow is None:
                raise RefusedError(f"its pickle holds the instruction {opcode.name}, which torch.save does not write")
            follow(state, argument)
        (tree,) = state.stack
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise RefusedError(f"its pickle is damaged ({type(error).__name__})") from error
    return Outline(tree, state.storages)


def names_in_pickle(data: bytes) -> list[str]:
    """Return every name that pickles one after the other would import, such as ``"posix.system"``.

    Only for saying what a refused file holds: they are followed up to the first damage, and names may be put together
    from strings in ways that are not followed.
    """
    file, found, at = io.BytesIO(data), list[str](), -1
    while at < file.tell() < len(data):
        at = file.tell()
        found += _names_in_one(file)
    return found


def _names_in_one(file: io.BytesIO) -> list[str]:
    found: list[str] = []
    strings: list[str] = []
    memo: dict[int, str] = {}
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST"):
                found.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                found.append(".".join(strings[-2:]))
            elif opcode.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if argument is None else int(argument)] = strings[-1] if strings else ""
            elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
                strings.append(memo.get(argument or 0, ""))
            elif isinstance(argument, str):
                strings.append(argument)
    except (ValueError, IndexError, OverflowError):
        file.seek(0, io.SEEK_END)  # what was named before the damage is still worth saying
    return found


def _push(state: _State, argument: Any) -> None:
    state.stack.append(argument)


def _constant(make: Callable[[], Any]) -> Callable[[_State, Any], None]:
    return lambda state, _: state.stack.append(make())


def _tuple(size: int) -> Callable[[_State, Any], None]:
    def follow(state: _State, _: Any) -> None:
        if len(state.stack) < size:
            raise IndexError
        cut = len(state.stack) - size
        state.stack[cut:] = [tuple(state.stack[cut:])]

    return follow


def _mark(state: _State, _: Any) -> None:
    state.marks.append(state.stack)
    state.stack = []


def _since_mark(state: _State) -> list[Any]:
    items, state.stack = state.stack, state.marks.pop()
    return items


def _append(state: _State, items: list[Any]) -> None:
    if type(state.stack[-1]) is not list:
        raise TypeError
    state.stack[-1].extend(items)


def _set(state: _State, items: list[Any]) -> None:
    if type(state.stack[-1]) is not dict:
        raise TypeError
    for key, value in zip(items[::2], items[1::2], strict=True):
        # a tuple nested deeply enough overflows the stack when it is hashed
        if type(key) is not str and not (state.inert and type(key) is int):
            raise TypeError
        state.stack[-1][key] = value


def _pop(state: _State, count: int) -> list[Any]:
    if len(state.stack) < count:
        raise IndexError
    cut = len(state.stack) - count
    items = state.stack[cut:]
    del state.stack[cut:]
    return items


def _put(state: _State, place: int) -> None:
    state.memo[place] = state.stack[-1]


def _build(state: _State, _: Any) -> None:
    """Attributes of an OrderedDict (a state dict has its ``_metadata``) or a stand-in; of anything else refused."""
    if type(state.stack[-2]) not in (dict, Inert):
        raise TypeError
    state.stack.pop()


def _persistent(state: _State, _: Any) -> None:
    word, kind, key, _location, num_elements = state.stack.pop()
    if word != "storage" or type(key) is not str or type(num_elements) is not int or num_elements < 0:
        raise ValueError
    num_bytes = num_elements * _ITEM_BYTES[kind.name]
    if state.storages.setdefault(key, num_bytes) != num_bytes:
        raise RefusedError(f"its storage {key!r:.20} has two sizes, {state.storages[key]:_} and {num_bytes:_} bytes")
    state.stack.append(_Storage(key, kind.name, num_elements))


def _reduce(state: _State, _: Any) -> None:
    called, arguments = _pop(state, 2)
    if called.name == _ORDERED and arguments == ():
        state.stack.append({})
    elif called.name == _REBUILD:
        state.stack.append(_tensor(*arguments))
    elif called.name in state.inert:
        state.stack.append(Inert(called.name))
    else:
        raise ValueError


def _new(state: _State, _: Any) -> None:
    made, _arguments = _pop(state, 2)
    if made.name not in state.inert:
        raise ValueError
    state.stack.append(Inert(made.name))


def _tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    _grad: bool,
    _hooks: dict[str, Any],
) -> TensorOutline:
    """Check that a tensor lies within its storage and has no more elements than it."""
    numbers = (storage.num_elements, offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError
    elements, last = 1, offset
    for size, stride in zip(shape, strides, strict=True):
        elements, last = elements * size, last + (size - 1) * stride
    if elements and (elements > storage.num_elements or last >= storage.num_elements):
        raise RefusedError(
            f"a tensor of shape {shape!r:.60} does not fit its storage of {storage.num_elements:_} elements"
        )
    return TensorOutline(storage.key, storage.kind, offset, shape, strides)


_FOLLOW: dict[str, Callable[[_State, Any], None]] = {
    **dict.fromkeys(("PROTO", "STOP"), lambda _state, _argument: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _push),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_LIST": _constant(list),
    "EMPTY_TUPLE": _constant(tuple),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "MARK": _mark,
    "TUPLE": lambda state, _: _push(state, tuple(_since_mark(state))),
    "APPEND": lambda state, _: _append(state, _pop(state, 1)),
    "APPENDS": lambda state, _: _append(state, _since_mark(state)),
    "SETITEM": lambda state, _: _set(state, _pop(state, 2)),
    "SETITEMS": lambda state, _: _set(state, _since_mark(state)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda state, place: _push(state, state.memo[place])),
    "GLOBAL": lambda state, name: _push(state, _Name(name.replace(" ", "."))),
    "BINPERSID": _persistent,
    "REDUCE": _reduce,
    "BUILD": _build,
}
_FOLLOW_INERT: dict[str, Callable[[_State, Any], None]] = {"NEWOBJ": _new}


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name)[1:-1][:60] for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
