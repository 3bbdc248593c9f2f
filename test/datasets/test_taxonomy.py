"""Taxonomies: public ids and order as the data sets and UPSNet define them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO, ClassInfo, Taxonomy, get_taxonomy

# UPSNet takes rows of a COCO-trained network for Cityscapes: for each Cityscapes class the
# semantic id of its COCO counterpart. The two must mean the same thing, which pins COCO's order.
COCO_ROW_OF_CITYSCAPES = {
    "road": (20, "road"),
    "sidewalk": (43, "pavement-merged"),
    "building": (49, "building-other-merged"),
    "wall": (51, "wall-other-merged"),
    "fence": (37, "fence-merged"),
    "vegetation": (36, "tree-merged"),
    "sky": (39, "sky-other-merged"),
    "person": (53, "person"),
    "car": (55, "car"),
    "truck": (60, "truck"),
    "bus": (58, "bus"),
    "train": (59, "train"),
    "motorcycle": (56, "motorcycle"),
    "bicycle": (54, "bicycle"),
    "traffic light": (62, "traffic light"),
}


@pytest.mark.parametrize(
    ("taxonomy", "num_stuff", "num_things"), [(CITYSCAPES, 11, 8), (COCO, 53, 80)]
)
def test_stuff_comes_first_and_ids_are_unique(
    taxonomy: Taxonomy, num_stuff: int, num_things: int
) -> None:
    assert (taxonomy.num_stuff, taxonomy.num_things) == (num_stuff, num_things)
    assert taxonomy.num_classes == len(taxonomy.classes) == num_stuff + num_things
    assert [info.is_thing for info in taxonomy.classes] == [False] * num_stuff + [True] * num_things
    assert len(taxonomy.by_id) == taxonomy.num_classes
    for attribute in ("name", "color"):
        assert len({getattr(info, attribute) for info in taxonomy.classes}) == taxonomy.num_classes


def test_cityscapes_public_ids_are_label_ids_in_train_id_order() -> None:
    expected = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert CITYSCAPES.public_ids.tolist() == expected
    assert CITYSCAPES.public_ids.dtype == np.int32
    assert CITYSCAPES.by_id[26] == ClassInfo(
        id=26, name="car", is_thing=True, color=(0, 0, 142), semantic_id=13
    )


@pytest.mark.parametrize(("name", "row"), COCO_ROW_OF_CITYSCAPES.items())
def test_coco_order_is_that_of_upsnet(name: str, row: tuple[int, str]) -> None:
    semantic_id, coco_name = row
    assert name in {info.name for info in CITYSCAPES.classes}
    assert COCO.classes[semantic_id].name == coco_name


def test_coco_things_keep_the_holes_in_the_official_ids() -> None:
    things = COCO.public_ids[COCO.num_stuff :]
    missing = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert things.tolist() == [i for i in range(1, 91) if i not in missing]
    assert COCO.public_ids[[0, 52]].tolist() == [92, 200]


def test_public_ids_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        CITYSCAPES.public_ids[0] = 1


def test_get_taxonomy() -> None:
    assert get_taxonomy("cityscapes") is CITYSCAPES
    assert get_taxonomy("coco") is COCO
    with pytest.raises(ValueError, match=r"'ade20k': .*cityscapes, coco"):
        get_taxonomy("ade20k")


def test_a_taxonomy_out_of_order_is_refused() -> None:
    stuff = ClassInfo(id=7, name="road", is_thing=False, color=(0, 0, 0), semantic_id=0)
    thing = ClassInfo(id=24, name="person", is_thing=True, color=(1, 1, 1), semantic_id=1)
    Taxonomy("fine", (stuff, thing))
    with pytest.raises(ValueError, match="order of semantic_id"):
        Taxonomy("swapped", (thing, stuff))
    with pytest.raises(ValueError, match="unique and positive"):
        other = ClassInfo(id=7, name="street", is_thing=False, color=(2, 2, 2), semantic_id=1)
        Taxonomy("double", (stuff, other))


def test_goes_to_other_processes_after_use() -> None:
    assert CITYSCAPES.by_id[26].name == "car"
    assert pickle.loads(pickle.dumps(CITYSCAPES)) == CITYSCAPES
