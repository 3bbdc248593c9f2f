from __future__ import annotations

from collections import Counter

import pytest

from upsnet_ros.synthetic.layout import blocks_between
from upsnet_ros.synthetic.renderer import swerve, traffic, walkers
from upsnet_ros.synthetic.street import FAR, lay_street

_CLASS = {"cyclist": "bicycle", "motorcyclist": "motorcycle"}
_THINGS = {"person", "car", "truck", "bus", "train", "bicycle", "motorcycle", *_CLASS}


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("seconds", [0.0, 4.3, 1000.0])
def test_no_two_things_in_sight_share_a_number(number: int, seconds: float) -> None:
    street = lay_street("train", 0, number)
    eye = street.camera_speed * seconds
    blocks = list(blocks_between(street, eye - 30, eye + FAR))
    items = [item for block in blocks for item in block.items]
    items += [*walkers(blocks, seconds), *traffic(street, seconds, eye, blocks)]
    counts = Counter(
        (_CLASS.get(item.kind, item.kind), item.number) for item in items if item.kind in _THINGS
    )

    assert len(counts) > 10
    assert max(counts.values()) == 1
    assert all(0 <= number < 1000 for _, number in counts)


def test_who_drives_keeps_his_number_and_moves_on_a_little() -> None:
    street = lay_street("val", 0, 1)
    before, after = (
        {(item.kind, item.number): item for item in traffic(street, second, 30.0, [])}
        for second in (5.0, 5.1)
    )

    assert len(before.keys() & after.keys()) > 5
    for key in before.keys() & after.keys():
        assert abs(after[key].s - before[key].s) < 1.5
        assert after[key].look == before[key].look


def test_drivers_go_round_what_lies_on_their_lane() -> None:
    obstacle = [(50.0, 1.5)]

    assert swerve(20.0, 1.2, obstacle) == 1.2
    assert swerve(50.0, 1.2, obstacle) == pytest.approx(1.5 - 1.9)
    assert swerve(50.0, 4.6, obstacle) == 4.6
