"""Images with one channel, such as labels and masks, as the numbers they hold."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from upsnet_ros.ros.compressed import ImageError

__all__ = ["plane"]

_TYPES = {"mono8": "u1", "8UC1": "u1", "16UC1": "u2", "mono16": "u2", "32SC1": "i4"}


def plane(msg: Any) -> npt.NDArray[Any]:
    """The values of an image with one channel, as they are.

    Args:
        msg: A sensor_msgs Image: mono8, mono16, 8UC1, 16UC1 or 32SC1, rows padded or not, either
            byte order.

    Returns:
        uint8, uint16 or int32 (H, W), in the machine's byte order; a view of the message's data
        where that is possible.

    Raises:
        ImageError: Where encoding, step and data do not fit each other.
    """
    code = _TYPES.get(msg.encoding)
    if code is None:
        raise ImageError(f"encoding {msg.encoding!r} is none of {', '.join(_TYPES)}")
    dtype = np.dtype(code).newbyteorder(">" if msg.is_bigendian else "<")
    if msg.step < msg.width * dtype.itemsize or len(msg.data) < msg.step * msg.height:
        raise ImageError(
            f"{len(msg.data)} bytes with step {msg.step} hold no "
            f"{msg.width}x{msg.height} pixels of {msg.encoding}"
        )
    values = np.ndarray(
        (msg.height, msg.width), dtype, buffer=msg.data, strides=(msg.step, dtype.itemsize)
    )
    return values.astype(dtype.newbyteorder(sys.byteorder), copy=False)
