"""Where randomness comes from: every draw has an address, and no two splits share one."""

from __future__ import annotations

import zlib

import numpy as np

#: A split's place in every address. Never change or reuse a number: scenes would change, or meet.
SPLITS = {"train": 1, "val": 2, "test": 3}


def check_split(split: str) -> str:
    """Returns ``split``.

    Raises:
        ValueError: For a split that is not known.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    return split


def generator(split: str, purpose: str, *place: int) -> np.random.Generator:
    """The generator of one purpose at one place, the same in every process and at every call.

    Args:
        split: "train", "val" or "test".
        purpose: What is drawn, such as "weather".
        place: Whole numbers that tell this draw from others of its purpose (seed, street, block).
    """
    # The lengths and signs are part of the address: SeedSequence takes [1] and [1, 0] for the same.
    address = [SPLITS[split], zlib.crc32(purpose.encode()), len(place)]
    for number in place:
        address += [abs(number), number < 0]
    return np.random.default_rng(np.random.SeedSequence(address))
