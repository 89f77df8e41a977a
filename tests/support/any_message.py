"""Messages of a protobuf type with any values at all, for hypothesis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message
from hypothesis import strategies as st

_DEEPEST = 4
_INTEGERS = {
    Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    Field.CPPTYPE_UINT32: (0, 2**32 - 1),
    Field.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_UNKIND = ["", "\x00", "a\x00b", "\n", "../../etc/passwd", "http://[", "é" * 70, "x" * 5000]


@st.composite
def any_message(draw: st.DrawFn, kind: Any, good: Sequence[Message] = (), depth: int = 0) -> Any:
    """A message of `kind`. `good`: messages that mean something to who reads them; half of all of
    their kinds are one of them, with up to two fields that are something else."""
    fields = list(kind.DESCRIPTOR.fields) if depth < _DEEPEST else []
    most = 1 if depth == 0 else 8  # a frame has a single field
    made = kind()
    mine = [one for one in good if one.DESCRIPTOR.full_name == kind.DESCRIPTOR.full_name]
    if mine and draw(st.booleans()):
        made.CopyFrom(draw(st.sampled_from(mine)))
        most = 2
    chosen = st.lists(st.sampled_from(fields), max_size=most, unique_by=lambda field: field.name)
    for field in draw(chosen) if fields else ():
        made.ClearField(field.name)
        values = [
            draw(_value(field, good, depth))
            for _ in range(draw(st.integers(0, 3)) if field.is_repeated else 1)
        ]
        if field.message_type is not None:
            for value in values:
                own = getattr(made, field.name)
                (own.add() if field.is_repeated else own).CopyFrom(value)
        elif field.is_repeated:
            getattr(made, field.name).extend(values)
        else:
            setattr(made, field.name, values[0])
    return made


def parts(message: Message, kind: type[Message]) -> Iterator[Any]:
    """Every message of `kind` inside a message, to be changed in place."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                if isinstance(part, kind):
                    yield part
                yield from parts(part, kind)


def _value(field: Field, good: Sequence[Message], depth: int) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if field.message_type is not None:
        return any_message(field.message_type._concrete_class, good, depth + 1)
    if kind in _INTEGERS:
        return st.integers(0, 5) | st.sampled_from([64, 128]) | st.integers(*_INTEGERS[kind])
    if kind in (Field.CPPTYPE_DOUBLE, Field.CPPTYPE_FLOAT):
        return st.floats(width=64 if kind == Field.CPPTYPE_DOUBLE else 32)
    if kind == Field.CPPTYPE_BOOL:
        return st.booleans()
    if kind == Field.CPPTYPE_ENUM:
        return st.integers(0, 20)
    if field.type == Field.TYPE_BYTES:
        return st.binary(max_size=100)
    return st.sampled_from(_UNKIND) | st.text(max_size=20)
