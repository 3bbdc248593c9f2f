from __future__ import annotations

import numpy as np
import torch

from upsnet_ros.training.objective import mask_loss, pixel_loss, region_losses, rpn_losses
from upsnet_ros.training.targets import (
    IGNORED_PIXEL,
    Kept,
    RegionTargets,
    RPNTargets,
    SeededChooser,
    keep_objects,
    panoptic_target,
)

CPU = torch.device("cpu")


def test_ignored_pixels_dilute_only_by_quirk() -> None:
    logits = torch.zeros(1, 4, 2, 2)
    target = torch.tensor([[[0, 1], [IGNORED_PIXEL, IGNORED_PIXEL]]])
    full = torch.log(torch.tensor(4.0))
    torch.testing.assert_close(pixel_loss(logits, target), full)
    torch.testing.assert_close(pixel_loss(logits, target, areas=torch.tensor([4.0])), full / 2)


def test_losses_of_nothing_are_zero_and_have_gradients() -> None:
    logits = torch.zeros(1, 4, 2, 2, requires_grad=True)
    loss = pixel_loss(logits, torch.full((1, 2, 2), IGNORED_PIXEL))
    masks = torch.zeros(1, 28, 28, requires_grad=True)
    nothing, image = torch.full((1, 28, 28), -1.0), torch.tensor([0])
    loss = loss + mask_loss(masks, nothing, images=image, batch=2)
    assert float(loss.detach()) == 0
    loss.backward()
    assert masks.grad is not None
    assert logits.grad is not None


def test_rpn_losses_count_labelled_anchors() -> None:
    targets = RPNTargets(
        torch.tensor([[1, 0, -1, 0]], dtype=torch.int8),
        torch.tensor([0, 1, 3]),
        torch.tensor([0]),
        torch.ones(1, 4),
    )
    objectness, box = rpn_losses(torch.zeros(1, 4), torch.zeros(1, 4, 4), targets, rpn_anchors=8)
    torch.testing.assert_close(objectness, 3 * torch.log(torch.tensor(2.0)) / 8)
    torch.testing.assert_close(box, torch.tensor(4 * (1 - 1 / 18) / 3))


def test_panoptic_target_marks_dropped_and_unknown_objects() -> None:
    semantic = torch.tensor([[[0, 11, 12, 255], [1, 11, 12, 255]]])
    masks = torch.zeros(1, 2, 4)
    masks[0, :, 1] = 1
    kept = Kept.of([np.array([0])], [1], device=CPU)
    target = panoptic_target(semantic, masks, kept=kept, num_stuff=11)
    assert target.tolist() == [[[0, 11, 12, -1], [1, 11, 12, -1]]]
    unknown = torch.tensor([[[False, True, False, True], [False] * 4]])
    target = panoptic_target(semantic, masks, kept=kept, num_stuff=11, unknown=unknown)
    assert target.tolist() == [[[0, 11, 12, 12], [1, 11, 12, -1]]]


def test_images_of_a_batch_have_their_own_objects_in_the_panoptic_target() -> None:
    """Of three images the second has none; unknown is the channel after those of the first."""
    semantic = torch.full((3, 1, 4), 11)
    masks = torch.eye(4)[:3, None]
    kept = Kept.of([np.array([1, 0]), np.arange(0), np.array([0])], [2, 1, 1], device=CPU)
    assert kept.rows.tolist() == [1, 0, 3]
    target = panoptic_target(semantic, masks, kept=kept, num_stuff=11)
    assert target.tolist() == [[[11, 12, 13, 13]], [[13] * 4], [[13, 13, 11, 13]]]


def test_some_objects_are_kept() -> None:
    kept = [
        len(keep_objects(count, fraction=0.7, chooser=SeededChooser(count))) for count in range(12)
    ]
    assert kept == [0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 7, 7]


def test_losses_of_regions_are_summed_in_full_precision() -> None:
    regions = RegionTargets(
        torch.zeros(3, 4),
        torch.tensor([0, 0, 1]),
        torch.tensor([1, 0, 0]),
        torch.tensor([0]),
        torch.ones(1, 4),
        torch.tensor([0.25, 0.25, 0.5]),
        (1, 0),
    )
    logits, deltas = torch.tensor([[0.0, 1.0], [0.3, 0.0], [0.1, 0.2]]), torch.zeros(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        classification, box = region_losses(logits, deltas, regions)
    each = logits.logsumexp(dim=1) - logits[[0, 1, 2], regions.classes]
    assert classification.dtype == torch.float32
    torch.testing.assert_close(classification, (each * regions.weights).sum())
    torch.testing.assert_close(box, torch.tensor(4 * 0.5 * 0.25))
