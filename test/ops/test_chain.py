"""From padded detections to labels, operator by operator, against the network's own way there."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from upsnet_ros.inference.assemble import Assembly, assemble
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network.instance_head import Detections, nothing_found
from upsnet_ros.network.panoptic_head import Grid, PanopticHead, remove_hidden_masks
from upsnet_ros.network.upsnet import PanopticResult
from upsnet_ros.network.variants import VARIANTS
from upsnet_ros.ops import dispatch
from upsnet_ros.ops.mask_removal import accept_masks
from upsnet_ros.ops.panoptic import MapOptions, panoptic_maps
from upsnet_ros.ops.segments import SegmentTable, segment_table

STUFF, CLASSES, BINS, PADDED = 3, 6, 6, 14
SIZE = (40, 72)
PUBLIC_IDS = torch.tensor([7, 8, 11, 24, 25, 26])
GEOMETRY = Geometry((60, 108), 2 / 3, SIZE, (64, 96))
VARIANT = replace(
    VARIANTS["cityscapes-r18"], num_classes=4, num_seg_classes=CLASSES, stuff_area_limit=90
)


def make_detections(count: int) -> tuple[Detections, Tensor]:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([50.0, 25.0])
    extent = torch.rand(count, 2, generator=generator) * torch.tensor([21.0, 14.0])
    classes = torch.randint(1, 4, (count,), generator=generator)
    scores = torch.rand(count, generator=generator).sort(descending=True).values
    masks = torch.randn(count, BINS, BINS, generator=generator) * 2 + 1.5
    return Detections(torch.cat((corner, corner + extent), dim=1), scores, classes), masks


def network_labels(count: int, semantic: Tensor) -> Assembly:
    """What the network makes of a frame, in shapes that depend on what it finds."""
    found, masks = make_detections(count)
    if count == 0:
        found, masks = nothing_found(torch.device("cpu")), torch.zeros(1, BINS, BINS)
    kept, kept_masks = remove_hidden_masks(found, masks, size=SIZE, threshold=0.3)
    head = PanopticHead(
        semantic=semantic,
        detections=found[kept],
        mask_logits=kept_masks,
        grid=Grid(SIZE),
        num_stuff=STUFF,
    )
    return assemble(
        PanopticResult(head.maps(), found[kept]),
        GEOMETRY,
        variant=VARIANT,
        public_ids=PUBLIC_IDS,
        semantic=False,
    )


def static_labels(counts: list[int], semantic: Tensor) -> SegmentTable:
    """The same of all frames at once, operator by operator."""
    batch = len(counts)
    boxes = torch.zeros(batch, PADDED, 4)
    classes = torch.zeros(batch, PADDED, dtype=torch.int64)
    logits = torch.zeros(batch, PADDED, BINS, BINS)
    for image, count in enumerate(counts):
        found, logits[image, :count] = make_detections(count)
        boxes[image, :count], classes[image, :count] = found.boxes, found.classes
    numbers = torch.tensor(counts, dtype=torch.int32)
    accepted = accept_masks(boxes, classes, logits, numbers, size=SIZE, threshold=0.3)
    place = accepted.indices.long()
    image = torch.arange(batch)[:, None]
    maps = panoptic_maps(
        semantic,
        boxes[image, place],
        classes[image, place],
        logits[image, place] * ~accepted.blank[:, None, None, None],
        accepted.counts,
        torch.zeros(1),
        Grid(SIZE).tables((SIZE[0] // 4, SIZE[1] // 4), "cpu"),
        options=MapOptions(STUFF),
    )
    return segment_table(
        maps.panoptic,
        maps.semantic,
        classes[image, place],
        PUBLIC_IDS,
        *GEOMETRY.source_rows_and_columns(torch.device("cpu")),
        num_stuff=STUFF,
        stuff_area_limit=VARIANT.stuff_area_limit,
    )


def make_semantic(batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(batch, CLASSES, SIZE[0] // 4, SIZE[1] // 4, generator=generator) * 3


def test_static_shapes_lead_to_the_same_labels() -> None:
    counts = [12, 1, 0]
    semantic = make_semantic(len(counts))
    result = static_labels(counts, semantic)
    for image, count in enumerate(counts):
        expected = network_labels(count, semantic[image])
        assert torch.equal(result.labels[image], expected.labels)
        assert torch.equal(result.unknown[image], expected.unknown)
        tables = (result.table[image], expected.table)
        rows, wanted = (sorted(x[x[:, 2] > 0].tolist()) for x in tables)
        assert rows == wanted
        assert len(result.labels[image].unique()) > (6 if count == 12 else 3)


def test_the_chain_of_kernels_leads_there_too() -> None:
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs TRITON_INTERPRET=1, which is set where there is no GPU")
    semantic = make_semantic(1)
    expected = static_labels([8], semantic)
    with dispatch.interpreted():
        result = static_labels([8], semantic)
    assert (result.labels == expected.labels).float().mean() > 0.999
    assert torch.equal(result.num_segments, expected.num_segments)
