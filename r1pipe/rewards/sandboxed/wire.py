"""How checker and program talk: frames over pipes, values as plain data with exact types, objects by reference."""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import importlib
import itertools
import json
import operator
import os
import struct
import sys
import types
import typing

MAX_FRAME = 32 << 20
MAX_ITEMS = 1_000_000
_MAX_DEPTH = 200


def read_exactly(fd: int, size: int) -> bytes | None:
    """`size` bytes; None where the other side closed the pipe before."""
    chunks = []
    left = size
    while left:
        chunk = os.read(fd, min(left, 1 << 20))
        if not chunk:
            return None
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def read_frame(fd: int) -> bytes | None:
    head = read_exactly(fd, 8)
    if head is None:
        return None
    (size,) = struct.unpack("<Q", head)
    if size > MAX_FRAME:
        raise ValueError("frame too large")
    return read_exactly(fd, size)


def write_frame(fd: int, data: bytes) -> None:
    data = struct.pack("<Q", len(data)) + data
    while data:
        data = data[os.write(fd, data) :]


# --- values -----------------------------------------------------------------------------------------------------------
# As JSON: None, bool, int, float and str as they are, everything else as a list that starts with the name of its type.


# Special methods are looked up on the class, so each that a test may need is written out. Comparisons other than == are
# not among them: a test that orders two of the program's objects fails.
class Remote:
    """The checker's stand-in for a function or object in the program's process."""

    _link: Link
    _number: int
    __name__: str

    def __init__(
        self,
        link: Link,
        number: int,
        name: str,
    ) -> None:
        # Not by assignment, which __setattr__ sends to the program.
        self.__dict__.update(_link=link, _number=number, __name__=name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._link.call(self, args, kwargs)

    def __getattr__(self, name: str) -> object:
        # copy and pickle look for such names; the program must not answer them.
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._link.ask(
            {
                "op": "attr",
                "on": self._number,
                "name": name,
            }
        )

    def __setattr__(self, name: str, value: object) -> None:
        self._do("setattr", name, value)

    def _do(self, name: str, *args: object) -> object:
        return self._link.ask(
            {
                "op": "special",
                "on": self._number,
                "name": name,
                "args": encode(list(args), self._link),
            }
        )

    def __eq__(self, other: object) -> bool:
        # Unequal to plain data, whatever the program's __eq__ says. The program compares two of its own objects itself.
        if not isinstance(other, Remote):
            return False
        return other._number == self._number or self._do("eq", other) is True

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return self._do("bool") is True

    def __len__(self) -> int:
        return int(typing.cast(int, self._do("len")))

    def __iter__(self) -> typing.Iterator[object]:
        return iter(typing.cast(list, self._do("iter")))

    def __getitem__(self, key: object) -> object:
        return self._do("getitem", key)

    def __str__(self) -> str:
        return str(self._do("str"))

    def __repr__(self) -> str:
        return str(self._do("repr"))


_SIMPLE = (datetime.datetime, datetime.date, datetime.time)
_LAZY = (types.GeneratorType, map, filter, zip, reversed, enumerate, itertools.chain, itertools.islice)
_ITERATORS = (*_LAZY, *(type(iter(x)) for x in ([], (), "", {}, range(1))))


def encode(
    value: object,
    link: Link,
    depth: int = 0,
) -> object:
    """A value as JSON. Exact about types, since (1,) is not [1] and 1 may not be True."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if depth > _MAX_DEPTH:
        raise RecursionError("nested too deeply")
    down = depth + 1

    if kind in (list, tuple, set, frozenset, collections.deque):
        items = typing.cast("list[object]", value)
        if len(items) > MAX_ITEMS:
            raise ValueError("too many items")
        return [kind.__name__, *[encode(item, link, down) for item in items]]
    if isinstance(value, dict):
        # dict.items and not value.items, which a subclass may redefine.
        name = kind.__name__ if kind in (collections.Counter, collections.OrderedDict) else "dict"
        return [name, *[[encode(k, link, down), encode(v, link, down)] for k, v in dict.items(value)]]
    if kind in (bytes, bytearray):
        return [kind.__name__, bytes(typing.cast(bytes, value)).decode("latin1")]
    if kind is complex:
        number = typing.cast(complex, value)
        return ["complex", number.real, number.imag]
    if kind is range:
        span = typing.cast(range, value)
        return ["range", span.start, span.stop, span.step]
    if kind is decimal.Decimal:
        return ["Decimal", str(value)]
    if kind is fractions.Fraction:
        fraction = typing.cast(fractions.Fraction, value)
        return ["Fraction", fraction.numerator, fraction.denominator]
    if kind in _SIMPLE:
        return [kind.__name__, typing.cast(datetime.date, value).isoformat()]
    if kind is datetime.timedelta:
        delta = typing.cast(datetime.timedelta, value)
        return ["timedelta", delta.days, delta.seconds, delta.microseconds]
    if kind in (type({}.keys()), type({}.values()), type({}.items())):
        return [kind.__name__, *[encode(item, link, down) for item in typing.cast("list[object]", value)]]
    if isinstance(value, _ITERATORS):
        # An endless generator is cut off.
        items = list(itertools.islice(typing.cast("typing.Iterator[object]", value), MAX_ITEMS))
        return ["iterator", *[encode(item, link, down) for item in items]]

    # Subclasses: named tuples, enums, a str that redefines ==.
    for base in (int, float, str, list, tuple, set, frozenset):
        if isinstance(value, base):
            return encode(base(typing.cast(typing.Any, value)), link, down)
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if isinstance(value, type) and getattr(builtins, value.__name__, None) is value:
        return ["type", value.__name__]
    return link.hand_out(value)


_SEQUENCES = {
    "list",
    "tuple",
    "set",
    "frozenset",
    "deque",
    "dict_values",
    "iterator",
    "dict_keys",
    "dict_items",
}
_SEQUENCE_TYPES = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
}
_DICT_TYPES = {
    "dict": dict,
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
}
_BYTE_TYPES = {"bytes": bytes, "bytearray": bytearray}
# Types that are called with what was sent.
_CALLED_TYPES = {
    "complex": complex,
    "range": range,
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
    "timedelta": datetime.timedelta,
}


def decode(data: object, link: Link) -> object:
    """The value of `encode`'s JSON."""
    if not isinstance(data, list):
        return data
    tag, *rest = data
    if tag in _SEQUENCES:
        return _decode_sequence(tag, [decode(item, link) for item in rest])
    if tag in _DICT_TYPES:
        return _DICT_TYPES[tag]({decode(k, link): decode(v, link) for k, v in rest})
    if tag in _BYTE_TYPES:
        return _BYTE_TYPES[tag](rest[0], "latin1")
    if tag in _CALLED_TYPES:
        return _CALLED_TYPES[tag](*rest)
    if tag in ("datetime", "date", "time"):
        return getattr(datetime, tag).fromisoformat(rest[0])
    if tag == "type":
        return getattr(builtins, rest[0])
    if tag == "module":
        # Importing anything else here would run the program's code in the checker.
        if rest[0].split(".")[0] not in sys.stdlib_module_names:
            raise NameError(rest[0])
        return importlib.import_module(rest[0])
    return link.take(tag, rest)


def _decode_sequence(tag: str, items: list[object]) -> object:
    if tag in ("list", "dict_values"):
        return items
    if tag == "iterator":
        return iter(items)
    if tag == "dict_keys":
        return dict.fromkeys(items).keys()
    if tag == "dict_items":
        return dict(typing.cast(typing.Any, items)).items()
    return _SEQUENCE_TYPES[tag](items)


# What the checker may do with an object of the program's.
_SPECIAL: dict[str, typing.Callable[..., object]] = {
    "bool": bool,
    "len": len,
    "iter": lambda items: list(itertools.islice(items, MAX_ITEMS)),
    "str": str,
    "repr": repr,
    "getitem": operator.getitem,
    "eq": operator.eq,
    "setattr": setattr,
}


class ProgramError(Exception):
    """The program raised, ended or answered nonsense; in the checker a failed test."""


class Link:
    """One end of the two pipes between checker and program.

    Args:
        serves: operations that the other side may ask for. The checker serves only calls of functions that a test gave
            as arguments: from attributes of such a function everything in its process can be reached.
    """

    def __init__(
        self,
        incoming: int,
        outgoing: int,
        serves: tuple[str, ...],
    ) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.serves = serves
        # Objects that were handed out to the other side, by number.
        self.mine: list[object] = []

    def send(self, message: object) -> None:
        write_frame(self.outgoing, json.dumps(message).encode())

    def receive(self) -> dict:
        frame = read_frame(self.incoming)
        if frame is None:
            raise EOFError
        return json.loads(frame)

    def hand_out(self, value: object) -> object:
        """A reference to an object that does not cross as plain data."""
        if isinstance(value, Remote):
            return ["yours", value._number]
        self.mine.append(value)
        return ["theirs", len(self.mine) - 1, getattr(value, "__name__", type(value).__name__)]

    def take(self, tag: object, rest: list) -> object:
        """The object of a reference, or its stand-in."""
        if tag == "yours":
            return self.mine[rest[0]]
        if tag == "theirs":
            return Remote(self, int(rest[0]), str(rest[1]))
        raise ValueError(f"unknown tag {tag!r}")

    def ask(self, request: dict) -> object:
        """Send a request and return its answer.

        Until that comes, serves the requests of the other side, which may call a function that it got as an argument.

        Raises:
            ProgramError: the other side ended or answered nonsense.
            Exception: the builtin exception that the program raised, else ProgramError.
        """
        try:
            self.send(request)
            reply = self.receive()
            while "op" in reply:
                self.answer(reply)
                reply = self.receive()
            if "error" not in reply:
                return decode(reply["value"], self)
            error_type = getattr(builtins, str(reply["error"]), None)
            text = str(reply.get("text", ""))
        except Exception as error:
            raise ProgramError(f"no answer: {type(error).__name__}") from None
        # The name comes from the program: SystemExit or a function of builtins must not be raised here. Nor may
        # StopIteration: `all(map(f, ...))` of a test would take it for the end of the values.
        if (
            isinstance(error_type, type)
            and issubclass(error_type, Exception)
            and not issubclass(error_type, StopIteration | StopAsyncIteration)
        ):
            raise error_type(text)
        raise ProgramError(text)

    def call(
        self,
        function: Remote,
        args: tuple,
        kwargs: dict,
    ) -> object:
        request = {
            "op": "call",
            "on": function._number,
            "args": encode(list(args), self),
            "kwargs": encode(kwargs, self),
        }
        value, changed = typing.cast(list, self.ask(request))
        # A function that works in place: copy the new contents into the arguments.
        for i, new in typing.cast(dict, changed).items():
            old = args[i]
            if isinstance(old, list | collections.deque | bytearray) and type(old) is type(new):
                old.clear()
                old.extend(new)
            elif isinstance(old, set | dict) and type(old) is type(new):
                old.clear()
                old.update(new)
        return value

    def answer(self, request: dict) -> None:
        try:
            self.send({"value": encode(self.perform(request), self)})
        except BaseException as error:
            text = str(error)[:200] if isinstance(error, Exception) else ""
            self.send({"error": type(error).__name__, "text": text})

    def perform(self, request: dict) -> object:
        op = request["op"]
        if op not in self.serves:
            raise PermissionError(op)
        if op == "call":
            function = typing.cast("typing.Callable[..., object]", self.mine[request["on"]])
            args = typing.cast(list, decode(request["args"], self))
            kwargs = typing.cast(dict, decode(request["kwargs"], self))
            value = function(*args, **kwargs)
            return [value, self._changed_arguments(args, request["args"][1:])]
        if op == "attr":
            return getattr(self.mine[request["on"]], request["name"])
        if op == "special":
            target = self.mine[request["on"]]
            args = typing.cast(list, decode(request["args"], self))
            return _SPECIAL[request["name"]](target, *args)
        raise ValueError(op)

    def _changed_arguments(self, args: list, coded_before: list) -> dict[int, object]:
        """The containers among the arguments that a call has changed, by their place."""
        changed: dict[int, object] = {}
        for i, (arg, before) in enumerate(zip(args, coded_before, strict=True)):
            if (
                isinstance(arg, list | collections.deque | set | dict | bytearray)
                and encode(arg, self) != before
            ):
                changed[i] = arg
        return changed
