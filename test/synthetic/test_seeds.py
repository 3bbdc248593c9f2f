from __future__ import annotations

import itertools

import pytest

from upsnet_ros.synthetic.texture import SPLITS, check_split, generator


def test_every_address_has_randomness_of_its_own() -> None:
    places = [(), (0,), (1,), (0, 0), (1, 0), (0, 1), (-1,), (-1, 0), (1, 1)]
    addresses = itertools.product(SPLITS, ("street", "block"), places)
    draws = [
        generator(split, purpose, *place).integers(1 << 62) for split, purpose, place in addresses
    ]

    assert len(set(draws)) == len(SPLITS) * 2 * len(places)


def test_an_address_is_the_same_at_every_call() -> None:
    first, second = (generator("val", "street", 3, 4).random(5) for _ in range(2))

    assert (first == second).all()


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match=r"'demo': .*train, val, test"):
        check_split("demo")
