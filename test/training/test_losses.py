from __future__ import annotations

import torch

from upsnet_ros.training.choices import SeededChooser
from upsnet_ros.training.losses import IGNORED_PIXEL, mask_loss, pixel_loss, rpn_losses
from upsnet_ros.training.panoptic_targets import keep_objects, panoptic_target
from upsnet_ros.training.rpn_targets import RPNTargets


def test_ignored_pixels_dilute_only_by_quirk() -> None:
    logits = torch.zeros(1, 4, 2, 2)
    target = torch.tensor([[[0, 1], [IGNORED_PIXEL, IGNORED_PIXEL]]])
    full = torch.log(torch.tensor(4.0))
    torch.testing.assert_close(pixel_loss(logits, target), full)
    torch.testing.assert_close(pixel_loss(logits, target, diluted=True), full / 2)


def test_losses_of_nothing_are_zero_and_have_gradients() -> None:
    logits = torch.zeros(1, 4, 2, 2, requires_grad=True)
    loss = pixel_loss(logits, torch.full((1, 2, 2), IGNORED_PIXEL))
    none = torch.zeros((0, 4, 2, 2), requires_grad=True)
    loss = loss + pixel_loss(none, torch.zeros((0, 2, 2), dtype=torch.int64))
    masks = torch.zeros(1, 28, 28, requires_grad=True)
    loss = loss + mask_loss(masks, torch.full((1, 28, 28), -1.0))
    assert float(loss.detach()) == 0
    loss.backward()
    assert masks.grad is not None
    assert logits.grad is not None


def test_rpn_losses_count_labelled_anchors() -> None:
    targets = RPNTargets(
        torch.tensor([1, 0, -1, 0], dtype=torch.int8), torch.tensor([0]), torch.ones(1, 4)
    )
    objectness, box = rpn_losses(torch.zeros(4), torch.zeros(4, 4), targets, rpn_anchors=8)
    torch.testing.assert_close(objectness, 3 * torch.log(torch.tensor(2.0)) / 8)
    torch.testing.assert_close(box, torch.tensor(4 * (1 - 1 / 18) / 3))


def test_panoptic_target_marks_dropped_and_unknown_objects() -> None:
    semantic = torch.tensor([[0, 11, 12, 255], [1, 11, 12, 255]])
    masks = torch.zeros(1, 2, 4)
    masks[0, :, 1] = 1
    target = panoptic_target(semantic, masks, num_stuff=11)
    assert target.tolist() == [[0, 11, 12, -1], [1, 11, 12, -1]]
    unknown = torch.tensor([[False, True, False, True], [False] * 4])
    target = panoptic_target(semantic, masks, num_stuff=11, unknown=unknown)
    assert target.tolist() == [[0, 11, 12, 12], [1, 11, 12, -1]]


def test_some_objects_are_kept() -> None:
    kept = [
        len(
            keep_objects(
                count, fraction=0.7, chooser=SeededChooser(count), device=torch.device("cpu")
            )
        )
        for count in range(12)
    ]
    assert kept == [0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 7, 7]
