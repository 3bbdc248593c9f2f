"""Messages with extreme values in every field."""

from __future__ import annotations

import array
import importlib
import math
from typing import Any

from rosidl_parser.definition import AbstractSequence, AbstractString, Array, BasicType

#: What all fields of a message have, as far as their types go.
KINDS = ("least", "most", "nan", "inf", "-inf", "empty", "long", "odd")
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "least": -3e38, "most": 3e38}
_TEXTS = {"long": "x" * 65536, "odd": "\x1b[31m[/]\n\r%s{}\N{REPLACEMENT CHARACTER}../=cmd|"}


def extreme(message: type, kind: str) -> Any:
    """A message of a type, all fields of one of `KINDS`; its arrays hold three equal elements."""
    fields = message.get_fields_and_field_types()  # type: ignore[attr-defined]
    types = message.SLOT_TYPES  # type: ignore[attr-defined]
    return message(**{name: _value(type_, kind) for name, type_ in zip(fields, types, strict=True)})


def extremes(message: type) -> list[Any]:
    """One message of each kind."""
    return [extreme(message, kind) for kind in KINDS]


def _value(type_: Any, kind: str) -> Any:
    if isinstance(type_, BasicType):
        return _basic(type_.typename, kind)
    if isinstance(type_, AbstractString):
        return _TEXTS.get(kind, "" if kind == "empty" else "text")
    if isinstance(type_, AbstractSequence | Array):
        count = type_.size if isinstance(type_, Array) else 0 if kind == "empty" else 3
        values = [_value(type_.value_type, kind) for _ in range(count)]
        if getattr(type_.value_type, "typename", "") == "uint8":
            return array.array("B", values) if isinstance(type_, AbstractSequence) else values
        return values
    module = importlib.import_module(".".join(type_.namespaces))
    return extreme(getattr(module, type_.name), kind)


def _basic(name: str, kind: str) -> Any:
    if name in ("float", "double"):
        return _FLOATS.get(kind, 0.0)
    if name == "boolean":
        return kind in ("most", "odd")
    if name == "octet":
        return b"\xff" if kind == "most" else b"\x00"
    bits, signed = int(name.lstrip("uint")), not name.startswith("u")
    if kind == "least":
        return -(2 ** (bits - 1)) if signed else 0
    if kind == "most":
        return 2 ** (bits - signed) - 1
    return -1 if signed and kind == "odd" else int(kind != "empty")
