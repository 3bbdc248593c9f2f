"""Panoptic FPN's frames against a rendering of the reference in torchvision, in sizes of all kinds.

The recorded cases of `test_panoptic_fpn_parity.py` hold the rendering to detectron2.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import panoptic_fpn_folder
import panoptic_fpn_reference
import pytest
import torch

from upsnet_ros.datasets.taxonomy import COCO
from upsnet_ros.inference.assemble import FrameSettings
from upsnet_ros.inference.network_paths import BatchedFrames
from upsnet_ros.inference.preprocess import Geometry, network_input
from upsnet_ros.network.checkpoint import load_state_dict
from upsnet_ros.network.panoptic_head import HeadOptions
from upsnet_ros.network.resnet import fold_batch_norm_
from upsnet_ros.network.upsnet import UPSNet, unmeasured
from upsnet_ros.network.variants import get_variant
from upsnet_ros.network.weights_file import from_detectron2


@cache
def _network(depth: str, seed: int) -> UPSNet:
    arrays = panoptic_fpn_folder.weights(depth, seed)
    tensors = from_detectron2({name: torch.from_numpy(x) for name, x in arrays.items()})
    network = UPSNet(get_variant(f"coco-fpn-{depth}"))
    load_state_dict(network, tensors, source="rule")
    fold_batch_norm_(network)
    return network.requires_grad_(False)


def _check(network: UPSNet, image: np.ndarray, *, short: int, longest: int) -> None:
    want = panoptic_fpn_reference.run(network, image, short=short, longest=longest)
    geometry = Geometry.of(image.shape[:2], scale=short, max_size=longest, family="panoptic_fpn")
    assert geometry.size == want.size
    pixels = torch.from_numpy(image)
    data = network_input(pixels[None], "bgr8", geometry, dtype=torch.float32)
    bgr = torch.tensor(want.resized).float() - torch.tensor(panoptic_fpn_reference.MEANS)
    inside = data[0, :, : want.size[0], : want.size[1]].permute(1, 2, 0)
    torch.testing.assert_close(inside, bgr, rtol=0, atol=1e-4)
    frames = BatchedFrames(
        network,
        geometry=lambda *_: geometry,
        bilinear=True,
        public_ids=torch.tensor(COCO.public_ids),
        graphs=None,
    )
    settings = FrameSettings(score_threshold=0.5, head=HeadOptions(confidence=True))
    (frame,) = frames.compute([pixels], settings, encoding="bgr8", stage=unmeasured)

    labels = np.zeros(image.shape[:2], np.int64)
    count: dict[int, int] = {}
    for number, index in enumerate(want.accepted, start=1):
        mine = (want.owner == number).numpy()
        public = int(COCO.public_ids[COCO.num_stuff - 1 + int(want.classes[index])])
        count[public] = count.get(public, 0) + 1
        labels[mine] = 1000 * public + count[public]
    stuff = (want.owner < 0).numpy()
    labels[stuff] = COCO.public_ids[-1 - want.owner.numpy()[stuff]]
    differs = frame.labels.numpy() != labels
    assert differs.mean() <= 1e-3, f"{differs.mean():.4f} of the pixels differ"
    thing = (want.semantic == network.variant.num_stuff) & ~want.close
    wrong = frame.unknown[thing] != (want.owner <= 0)[thing]
    # On an outline a mask is a half to the last bit: 1 of 110,069 pixels at 1080 x 1920.
    assert wrong.sum() <= 1e-4 * len(wrong)


#: Height, width, short side, longest side: less than 0.4 of the size, portrait, long strips, tiny
#: images and square ones.
CASES = [
    (346, 519, 128, 213, "r50", 3),
    (301, 160, 128, 213, "r50", 4),
]
MORE_CASES = [
    (60, 900, 256, 426, "r50", 5),
    (700, 41, 256, 426, "r50", 6),
    (13, 17, 256, 426, "r50", 7),
    (3, 200, 256, 426, "r50", 5),
    (256, 256, 256, 426, "r50", 8),
    (1080, 1920, 400, 666, "r50", 9),
    (801, 600, 300, 500, "r101", 10),
    (480, 640, 800, 1333, "r50", 11),
]


@pytest.mark.parametrize(("height", "width", "short", "longest", "depth", "seed"), CASES)
def test_frames_are_the_reference_s(
    height: int, width: int, short: int, longest: int, depth: str, seed: int
) -> None:
    image = panoptic_fpn_folder.rule("make_images").make_image(height, width, seed)
    _check(_network(depth, 3), image, short=short, longest=longest)


@pytest.mark.long
@pytest.mark.parametrize(("height", "width", "short", "longest", "depth", "seed"), MORE_CASES)
def test_frames_of_more_sizes(
    height: int, width: int, short: int, longest: int, depth: str, seed: int
) -> None:
    image = panoptic_fpn_folder.rule("make_images").make_image(height, width, seed)
    _check(_network(depth, seed), image, short=short, longest=longest)


def test_the_reference_gives_what_was_recorded() -> None:
    path = panoptic_fpn_folder.FOLDER / "cases" / "r50_s0_300x420.npz"
    if not path.is_file():
        pytest.skip("the folder has not this case")
    want = np.load(path)
    meta = json.loads(str(want["meta_json"]))
    got = panoptic_fpn_reference.run(
        _network("r50", 0), want["image"], short=meta["min_size"], longest=meta["max_size"]
    )
    np.testing.assert_array_equal(got.resized, want["resized"])
    np.testing.assert_allclose(got.boxes.numpy(), want["det_boxes"], rtol=0, atol=0.01)
    things = np.isin(want["panoptic"], [1 + n for n in range(len(got.accepted))])
    assert ((got.owner.numpy() > 0) == things).mean() > 0.999
