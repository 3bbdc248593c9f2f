"""Furnishes a street block by block: what stands on it, whether it moves or not.

Every block is drawn from its own place in the random numbers, so any stretch of an endless street
can be laid out without those before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from upsnet_ros.datasets.scenes.draft import Block, Draft, Mouth
from upsnet_ros.datasets.scenes.grounds import Patch
from upsnet_ros.datasets.scenes.kerbside import park, put_up_signals, stand_along, wait_in
from upsnet_ros.datasets.scenes.plots import furnish_plots
from upsnet_ros.datasets.scenes.residents import cross_at, drop_on_lanes, inhabit, leave_things
from upsnet_ros.datasets.scenes.street import ASPHALT, BLOCK, Street

_NO_PARKING = 5.0  # before a side street, metres


@lru_cache(maxsize=64)
def lay_block(street: Street, index: int) -> Block:
    """The block from s = ``index * BLOCK`` on."""
    rng = street.rng("block", index)
    draft = Draft(street=street, index=index, rng=rng)
    width, end = float(rng.uniform(6.5, 9.5)), draft.start + BLOCK
    open_sides = [side for side in (0, 1) if rng.random() < 0.5]
    mouths = tuple(Mouth(side=side, start=end - width, end=end) for side in open_sides)
    crosswalk = end - width - 3.0 if rng.random() < 0.6 else None
    for number, side in enumerate(street.sides):
        own = [mouth for mouth in mouths if mouth.side == number]
        free = own[0].start if own else end
        for mouth in own:
            draft.patches.append(
                Patch(
                    side=number,
                    start=mouth.start,
                    end=mouth.end,
                    inner=side.kerb - 0.01,
                    material=ASPHALT,
                )
            )
            wait_in(draft, mouth)
        items, patches = furnish_plots(street, number, draft.start, free, rng)
        draft.items += items
        draft.patches += patches
        stand_along(draft, number, side, free)
        park(draft, number, side, free - (_NO_PARKING if own else 0.0))
        inhabit(draft, number, side, free)
        leave_things(draft, number, side, free)
    if crosswalk is not None:
        if mouths or rng.random() < 0.5:
            put_up_signals(draft, crosswalk)
        cross_at(draft, crosswalk)
    drop_on_lanes(draft)
    return Block(
        items=tuple(draft.items),
        walks=tuple(draft.walks),
        patches=tuple(draft.patches),
        mouths=mouths,
        crosswalk=crosswalk,
        obstacles=tuple(draft.obstacles),
    )


def blocks_between(street: Street, start: float, end: float) -> Iterator[Block]:
    """The blocks that have a part between two values of s."""
    for index in range(int(np.floor(start / BLOCK)), int(np.floor(end / BLOCK)) + 1):
        yield lay_block(street, index)
