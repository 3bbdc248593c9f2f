"""What file names say of frames: which drive they belong to, and where in it they are."""

from __future__ import annotations

import re
from pathlib import PurePath

# aachen_000000_000019_leftImg8bit, and any other name that ends in a counter.
_CITYSCAPES = re.compile(r"(?P<sequence>.+_\d{6})_(?P<number>\d{6})")
_SUFFIX = re.compile(r"_(leftImg8bit|gtFine.*|newImg8bit.*|panoptic)$")


def frame_name(file: str | PurePath) -> str:
    """Name of a frame without folder, ending and Cityscapes' own suffixes."""
    return _SUFFIX.sub("", PurePath(file).stem)


def place_in_sequence(name: str) -> tuple[str, int]:
    """Sequence and number of a frame of that name.

    Names of Cityscapes' form ``<city>_<sequence>_<frame>`` tell; any other image stands for
    itself.
    """
    match = _CITYSCAPES.fullmatch(name)
    return (match["sequence"], int(match["number"])) if match else (name, 0)
