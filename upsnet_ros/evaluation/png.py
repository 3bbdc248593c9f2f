"""Reading the PNG files of panoptic segmentations and masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from kornia_rs.io import read_image_png_u8

from upsnet_ros.evaluation.errors import EvaluationError

# Where a PNG file says what its pixels are: bits and colour type, of which 2 is RGB.
_FORM = slice(24, 26)
_RGB_OF_8_BITS = bytes((8, 2))


def read_segment_ids(path: Path) -> npt.NDArray[np.uint32]:
    """Read COCO's panoptic form, id = R + 256 G + 65536 B: uint32 (H, W).

    Raises:
        EvaluationError: The file is missing, damaged, or no such PNG.
    """
    try:
        with path.open("rb") as file:
            form = file.read(_FORM.stop)[_FORM]
    except OSError as error:
        raise EvaluationError(f"cannot read {path}: {error.strerror}") from None
    if form != _RGB_OF_8_BITS:
        raise EvaluationError(f"{path} is no RGB PNG of 8 bits, as panoptic segments need")
    try:
        rgb = read_image_png_u8(str(path), "rgb")
    except Exception as error:  # the decoder has no type of its own
        raise EvaluationError(f"{path} cannot be read: {error}") from error
    # Four bytes a pixel can be looked at as one number, three cannot.
    rgba = cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA)
    ids = rgba.view("<u4")[..., 0]
    ids &= np.uint32(0xFFFFFF)
    return ids


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """Read a gray image of 8 bits: uint8 (H, W).

    Raises:
        EvaluationError: The file is missing, damaged, or has more channels or bits.
    """
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if values is None:
        raise EvaluationError(f"{path} is missing, or it is no image")
    if values.ndim != 2 or values.dtype != np.uint8:
        raise EvaluationError(f"{path} is no gray image of 8 bits")
    return values.astype(np.uint8, copy=False)
