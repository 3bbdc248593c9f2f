from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from upsnet_ros.ops.boxes import RPN_WEIGHTS, decode_boxes
from upsnet_ros.training.settings import Quirks, TargetSettings
from upsnet_ros.training.targets import (
    IGNORED,
    NEGATIVE,
    POSITIVE,
    RPNTargets,
    SeededChooser,
    assign_rpn_targets,
    batch_anchors,
)

SIZE = (128, 160)
NOBODY = torch.zeros((0, 4))


@pytest.fixture(scope="module")
def anchors() -> Tensor:
    return batch_anchors(SIZE, top_n=100, device=torch.device("cpu")).boxes[0]


def assign(
    anchors: Tensor,
    boxes: Tensor,
    *,
    crowds: Tensor = NOBODY,
    settings: TargetSettings | None = None,
    quirks: Quirks | None = None,
) -> RPNTargets:
    """Assign the targets of one image; behind its boxes there is padding."""
    padding = torch.zeros((1, 4))
    kinds = torch.tensor([1] * len(boxes) + [2] * len(crowds) + [0])[None]
    targets = assign_rpn_targets(
        anchors,
        sizes=torch.tensor([[[float(side) for side in SIZE]]]),
        boxes=torch.cat((boxes, crowds, padding))[None],
        objects=kinds == 1,
        crowd=kinds == 2 if len(crowds) else None,
        settings=settings or TargetSettings(),
        quirks=quirks or Quirks(),
        choosers=[SeededChooser(0)],
    )
    return replace(targets, labels=targets.labels[0])


def test_positives_predict_their_object_and_batches_are_full(anchors: Tensor) -> None:
    boxes = torch.tensor([[30.0, 40.0, 80.0, 90.0], [100.0, 20.0, 130.0, 70.0]])
    targets = assign(anchors, boxes)
    assert len(targets.labelled) == 256
    labelled = targets.labelled.sort().values
    assert torch.equal(torch.nonzero(targets.labels != IGNORED).squeeze(1), labelled)
    assert torch.equal(torch.nonzero(targets.labels == POSITIVE).squeeze(1), targets.positives)
    decoded = decode_boxes(anchors[targets.positives], targets.deltas, RPN_WEIGHTS)
    distance = (decoded[:, None] - boxes).abs().amax(dim=2)
    assert distance.amin(dim=1).max() < 1e-3
    assert distance.amin(dim=0).max() < 1e-3  # every object has an anchor


def test_anchors_that_leave_the_image_are_ignored(anchors: Tensor) -> None:
    targets = assign(anchors, torch.tensor([[30.0, 40.0, 80.0, 90.0]]))
    x1, y1, x2, y2 = anchors[targets.labels != IGNORED].unbind(1)
    assert min(x1.min(), y1.min()) >= 0
    assert x2.max() < SIZE[1]
    assert y2.max() < SIZE[0]


def test_surplus_positives_are_ignored(anchors: Tensor) -> None:
    settings = TargetSettings(rpn_positives=2, rpn_positive_overlap=0.4)
    boxes = torch.tensor([[30.0, 40.0, 80.0, 90.0]])
    assert len(assign(anchors, boxes, settings=settings).positives) == 2


def test_without_objects_all_is_background(anchors: Tensor) -> None:
    targets = assign(anchors, NOBODY)
    assert int((targets.labels == NEGATIVE).sum()) == 256
    assert targets.deltas.shape == (0, 4)


def test_background_takes_no_positives_away_but_by_quirk(anchors: Tensor) -> None:
    # The best anchor of a thin box overlaps it by less than 0.3.
    boxes = torch.tensor([[5.0, 60.0, 150.0, 63.0]])
    everything = TargetSettings(rpn_anchors=100_000)
    assert len(assign(anchors, boxes, settings=everything).positives) > 0
    nearly_all = TargetSettings(rpn_anchors=int(len(anchors) * 0.45))
    quirks = Quirks(rpn_negatives_over_positives=True)
    kept = len(assign(anchors, boxes, settings=nearly_all).positives)
    assert len(assign(anchors, boxes, settings=nearly_all, quirks=quirks).positives) < kept


def test_scarce_background_is_labelled_but_by_quirk(anchors: Tensor) -> None:
    boxes = torch.tensor([[30.0, 40.0, 80.0, 90.0]])
    wanted = TargetSettings(rpn_anchors=100_000)
    assert int((assign(anchors, boxes, settings=wanted).labels == NEGATIVE).sum()) > 1000
    quirks = Quirks(rpn_scarce_negatives_ignored=True)
    targets = assign(anchors, boxes, settings=wanted, quirks=quirks)
    assert not (targets.labels == NEGATIVE).any()


def test_an_object_out_of_every_anchors_reach_matches_none_but_by_quirk(anchors: Tensor) -> None:
    corner = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    assert len(assign(anchors, corner).positives) == 0
    quirks = Quirks(rpn_positives_without_overlap=True)
    assert len(assign(anchors, corner, quirks=quirks).positives) == 128


def test_anchors_on_a_group_are_left_out_but_by_quirk(anchors: Tensor) -> None:
    group = torch.tensor([[0.0, 0.0, 159.0, 100.0]])
    everything = TargetSettings(rpn_anchors=100_000)

    def on_group(quirks: Quirks) -> int:
        targets = assign(anchors, NOBODY, crowds=group, settings=everything, quirks=quirks)
        return int((anchors[targets.labels == NEGATIVE][:, 3] < 100).sum())

    assert on_group(Quirks()) == 0
    assert on_group(Quirks(crowds_as_objects=True)) > 1000
