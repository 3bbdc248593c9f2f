"""From padded detections to labels, operator by operator, against the network's own way there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from upsnet_ros.inference.assemble import assemble
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.kernels.hidden_masks import accept_masks
from upsnet_ros.kernels.panoptic import panoptic_maps
from upsnet_ros.kernels.segments import segment_table
from upsnet_ros.network.instance_head import Detections, nothing_found
from upsnet_ros.network.mask_removal import remove_hidden_masks
from upsnet_ros.network.panoptic_head import Grid, PanopticHead
from upsnet_ros.network.upsnet import PanopticResult
from upsnet_ros.network.variants import VARIANTS

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


@pytest.mark.parametrize("count", [12, 1, 0])
def test_static_shapes_lead_to_the_same_labels(count: int) -> None:
    detections, masks = make_detections(count)
    generator = torch.Generator().manual_seed(9)
    semantic = torch.randn(CLASSES, SIZE[0] // 4, SIZE[1] // 4, generator=generator) * 3

    found, found_masks = detections, masks
    if count == 0:
        found, found_masks = nothing_found(torch.device("cpu")), torch.zeros(1, BINS, BINS)
    kept, kept_masks = remove_hidden_masks(found, found_masks, size=SIZE, threshold=0.3)
    kept_detections = found[kept]
    head = PanopticHead(
        semantic=semantic,
        detections=kept_detections,
        mask_logits=kept_masks,
        grid=Grid(SIZE),
        num_stuff=STUFF,
    )
    expected = assemble(
        PanopticResult(head.maps(), kept_detections),
        GEOMETRY,
        variant=VARIANT,
        public_ids=PUBLIC_IDS,
        semantic=False,
    )

    boxes, classes = torch.zeros(PADDED, 4), torch.zeros(PADDED, dtype=torch.int64)
    logits = torch.zeros(PADDED, BINS, BINS)
    boxes[:count], classes[:count], logits[:count] = detections.boxes, detections.classes, masks
    number = torch.tensor([count], dtype=torch.int32)
    accepted = accept_masks(boxes, classes, logits, number, size=SIZE, threshold=0.3)
    place = accepted.place.long()
    maps = panoptic_maps(
        semantic,
        boxes[place],
        classes[place],
        logits[place] * ~accepted.blank[:, None, None],
        accepted.number,
        size=SIZE,
        num_stuff=STUFF,
    )
    result = segment_table(
        maps.panoptic,
        maps.semantic,
        classes[place],
        PUBLIC_IDS,
        *GEOMETRY.source_rows_and_columns(torch.device("cpu")),
        num_stuff=STUFF,
        stuff_area_limit=VARIANT.stuff_area_limit,
    )
    assert torch.equal(result.labels, expected.labels)
    assert torch.equal(result.unknown, expected.unknown)
    rows = result.table[result.table[:, 2] > 0].tolist()
    assert sorted(rows) == expected.table.tolist()
    assert len(result.labels.unique()) > (6 if count == 12 else 3)
