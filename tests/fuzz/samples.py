"""A valid value of any type that a message or a row can be, and strategies of nearly valid ones,
drawn from the types themselves: a message that is added is tried without a further line."""

from collections.abc import Iterator
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

#: Numbers at which a C type, a datetime or an index of the database ends.
_ENDS = tuple(
    sign * 2**bits + more
    for bits in (0, 7, 8, 15, 16, 31, 32, 53, 55, 62, 63, 64)
    for sign in (1, -1)
    for more in (-1, 0, 1)
)
INTEGERS = st.one_of(
    st.integers(-3, 70), st.sampled_from([end for end in _ENDS if -(2**63) <= end < 2**64])
)
_NASTY = (
    *("", "a", "default", "2026-11-23T08:00:00Z", "\0", "\x1b[2J", "\u202e", "x" * 300, " ", "\n"),
    *("\U0001f600", "\u0663", "../..", "nan", "-1", "%s", "{id}", "null", "\ufeff", "\x7f", "\x9f"),
)
TEXTS = st.one_of(st.sampled_from(_NASTY), st.text(max_size=4))
FLOATS = st.one_of(st.sampled_from([0.0, -0.0, 1e308, 1e-308, -1.5]), st.floats(width=64))
#: Of any type, and few: what is nested at random takes long to draw.
VALUES = st.sampled_from(
    (
        *(None, True, False, 0, -1, 2**31, 2**63, 2**64 - 1, -(2**63), 0.5, -0.0, 1e308),
        *(*_NASTY, [], {}, [[]], [None], ["a", 1, {"b": []}], {"": ""}, {"a": {"b": [1.5]}}),
        *([1] * 40, {str(number): number for number in range(40)}, [[[[[["deep"]]]]]]),
    )
)


#: Of so many values one is of the rare kind.
RARE = 30


def mostly(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw the usual, and now and then the rare: else little would be wholly valid."""
    others = [usual.map(_same) for _ in range(RARE - 1)]  # each its own, or they counted as one
    return st.one_of(*others, rare)


def _same(drawn: Any) -> Any:
    return drawn


def of(kind: Any) -> Iterator[Any]:
    """Yield valid values of a type, one of each member of a union, as plain Python objects."""
    info = inspect.type_info(kind)
    for member in info.types if isinstance(info, inspect.UnionType) else (info,):
        yield _plain(member)


def _plain(info: inspect.Type) -> Any:
    match info:
        case inspect.StructType():
            return _plain_struct(info)
        case inspect.UnionType():
            return _plain(next(one for one in info.types if not isinstance(one, inspect.NoneType)))
        case inspect.VarTupleType() | inspect.ListType():
            return [_plain(info.item_type)]
        case inspect.TupleType():
            return [_plain(one) for one in info.item_types]
        case inspect.Metadata():
            return _plain(info.type)
        case _:
            return _plain_value(info)


def _plain_struct(info: inspect.StructType) -> Any:
    values = {field.encode_name: _plain(field.type) for field in info.fields}
    if info.array_like:
        return ([info.tag] if info.tag_field else []) + list(values.values())
    return ({info.tag_field: info.tag} if info.tag_field else {}) | values


def _plain_value(info: inspect.Type) -> Any:
    match info:
        case inspect.IntType() | inspect.FloatType():
            return max(2, info.ge or 0)
        case inspect.DictType():
            return {"a": 1 if isinstance(info.value_type, inspect.IntType) else "b"}
        case inspect.EnumType():
            return next(iter(info.cls)).value
        case inspect.LiteralType():
            return info.values[0]
        case _:
            return _SIMPLE[type(info)]


_SIMPLE: dict[type, Any] = {
    inspect.StrType: "a",
    inspect.BytesType: b"a",
    inspect.BoolType: True,
    inspect.AnyType: 1,
    inspect.NoneType: None,
}


def nearly(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy of plain objects with the shape of a type, and values beyond it."""
    info = inspect.type_info(kind)
    members = info.types if isinstance(info, inspect.UnionType) else (info,)
    return st.one_of([_near(member) for member in members])


def _near(info: inspect.Type) -> st.SearchStrategy[Any]:
    return mostly(_shaped(info), VALUES)


def _shaped(info: inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case inspect.StructType():
            return _struct(info)
        case inspect.UnionType():
            return st.one_of([_shaped(one) for one in info.types])
        case inspect.VarTupleType() | inspect.ListType():
            return st.lists(_shaped(info.item_type), max_size=3)
        case inspect.TupleType():
            return st.tuples(*map(_shaped, info.item_types)).map(list)
        case inspect.DictType():
            return st.dictionaries(TEXTS, _shaped(info.value_type), max_size=3)
        case inspect.EnumType():
            return st.sampled_from([one.value for one in info.cls])
        case inspect.LiteralType():
            return st.sampled_from(info.values)
        case inspect.Metadata():
            return _shaped(info.type)
        case inspect.IntType(ge=least, le=most) if least is not None or most is not None:
            return mostly(st.integers(least, most), INTEGERS)
        case _:
            return _STRATEGIES[type(info)]


def _struct(info: inspect.StructType) -> st.SearchStrategy[Any]:
    values = {field.encode_name: _near(field.type) for field in info.fields}
    if info.array_like:
        head = [st.just(info.tag)] if info.tag_field else []
        return st.tuples(*head, *values.values()).map(list)
    needed = {field.encode_name for field in info.fields if field.required}
    drawn = st.fixed_dictionaries(
        {name: values[name] for name in values if name in needed},
        optional={name: values[name] for name in values if name not in needed},
    )
    return drawn.map(lambda found: {info.tag_field: info.tag, **found} if info.tag_field else found)


_STRATEGIES: dict[type, st.SearchStrategy[Any]] = {
    inspect.IntType: INTEGERS,
    inspect.FloatType: FLOATS,
    inspect.StrType: TEXTS,
    inspect.BytesType: st.binary(max_size=30),
    inspect.BoolType: st.booleans(),
    inspect.AnyType: VALUES,
    inspect.NoneType: st.none(),
}


def packed(kind: Any) -> tuple[bytes, ...]:
    """Return valid values of a type as MessagePack."""
    return tuple(map(msgspec.msgpack.encode, of(kind)))


def as_json(kind: Any) -> tuple[bytes, ...]:
    """Return valid values of a type as JSON."""
    return tuple(map(msgspec.json.encode, of(kind)))
