"""What a bag gave, as bytes: MessagePack of `PartialResult` and all that it is made of.

The dataclasses themselves are the schema, and every field is checked against it when bytes are
read. Unlike pickle, reading runs no code, so that files may come from anywhere. Arrays are
``[dtype, shape, bytes]``; floats keep every bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any, get_args, get_origin

import msgspec
import numpy as np

from upsnet_ros.evaluation.partial import PartialResult

__all__ = ["ResultError", "decode", "encode"]


class ResultError(ValueError):
    """Bytes are no result; the message says where."""


def encode(result: PartialResult) -> bytes:
    """Write a result.

    A class's sum of IoUs in one frame must be less than 2^64 units, which are 2048 perfect matches:
    twice as many things as labels of a bag can number.

    Raises:
        OverflowError: It is not.
    """
    return msgspec.msgpack.encode(result, enc_hook=_plain)


def decode(data: bytes | msgspec.Raw) -> PartialResult:
    """Read a result, exactly as it was written.

    Raises:
        ResultError: The bytes are damaged, or of another version.
    """
    try:
        return _decoder().decode(data)
    except msgspec.DecodeError as error:  # of the schema too
        raise ResultError(str(error)) from error


@cache
def _decoder() -> msgspec.msgpack.Decoder[PartialResult]:
    return msgspec.msgpack.Decoder(PartialResult, dec_hook=_typed)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a result")


def _typed(kind: Any, value: Any) -> Any:
    if get_origin(kind) is not np.ndarray:
        raise TypeError(f"{kind} has no place in a result")
    (wanted,) = get_args(get_args(kind)[1])
    try:
        name, shape, data = msgspec.convert(value, tuple[str, tuple[int, ...], bytes])
        if np.dtype(name) != np.dtype(wanted):
            raise ValueError(f"an array is of {name}, not of {np.dtype(wanted).str}")
        return np.frombuffer(data, wanted).reshape(shape)
    except (TypeError, msgspec.ValidationError) as error:  # no dtype, no such list
        raise ValueError(str(error)) from error
