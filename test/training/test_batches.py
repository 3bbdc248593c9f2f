"""A batch computed at once: its losses are the means of those of its images, for few launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from benchmark_script import load
from torch import Tensor

from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network.checkpoint import load_checkpoint
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.synthetic.dataset import SceneDataset
from upsnet_ros.training.loading import Batch, prepare
from upsnet_ros.training.objective import BatchLosses, TrainingNetwork, compute_features
from upsnet_ros.training.optimizer import freeze_stages
from upsnet_ros.training.settings import LossSettings, Quirks, TargetSettings
from upsnet_ros.training.targets import IGNORED, SeededChooser
from upsnet_ros.weights import shipped_weights

VARIANT = get_variant("cityscapes-r18")
TARGETS = TargetSettings(rpn_top_n=200, rois=64, roi_positives=16)
LOSSES = LossSettings(semantic_roi=0.2, unknown_pixels="unknown")


@pytest.fixture(scope="module")
def network() -> UPSNet:
    network = UPSNet(VARIANT)
    load_checkpoint(network, shipped_weights(VARIANT.name))
    freeze_stages(network, 2)
    return network.train()


def images(*scales: int, quirks: Quirks | None = None) -> list[Batch]:
    """Return scenes of some short sides; of the second one everything is a crowd."""
    scenes = SceneDataset(split="train", seed=0, length=len(scales), size=(128, 256), cache=None)
    found = []
    for index, scale in enumerate(scales):
        sample = scenes[index]
        if index == 1:
            crowds = tuple(replace(thing, crowd=True) for thing in sample.things)
            sample = replace(sample, things=crowds)
        geometry = Geometry.of(sample.size, scale=scale, max_size=4 * scale)
        found.append(
            prepare(
                sample, geometry, num_stuff=VARIANT.num_stuff, seed=index, quirks=quirks or Quirks()
            )
        )
    return found


def losses_of(network: UPSNet, batch: Sequence[Batch], quirks: Quirks) -> dict[str, Tensor]:
    model = TrainingNetwork(network, targets=TARGETS, losses=LOSSES, quirks=quirks)
    return model(Batch.join(batch))


ALL_QUIRKS = Quirks(**dict.fromkeys(Quirks.__dataclass_fields__, True))


@pytest.mark.parametrize("quirks", [Quirks(), replace(ALL_QUIRKS, masks_by_bounds=False)])
def test_losses_and_gradients_are_the_means_of_those_of_the_images(
    network: UPSNet, quirks: Quirks
) -> None:
    batch = images(128, 128, 128, quirks=quirks)
    assert [image.members.shape[1] > 0 for image in batch] == [True, False, True]
    network.zero_grad()
    together = losses_of(network, batch, quirks)
    together["total"].backward()
    gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    alone = [losses_of(network, [image], quirks) for image in batch]
    (sum(losses["total"] for losses in alone) / len(batch)).backward()
    for name, value in together.items():
        mean = sum(float(losses[name].detach()) for losses in alone) / len(batch)
        assert float(value.detach()) == pytest.approx(mean, rel=1e-5, abs=1e-6), name
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == (name not in gradients), name
        if parameter.grad is not None:
            distance = (parameter.grad - gradients[name]).norm()
            assert distance <= 1e-4 * parameter.grad.norm() + 1e-7, name


def losses_object(network: UPSNet, batch: Batch) -> BatchLosses:
    return BatchLosses(
        network,
        compute_features(network, batch.data),
        batch,
        targets=TARGETS,
        losses=LOSSES,
        quirks=Quirks(),
        choosers=[SeededChooser(seed) for seed in batch.seeds],
    )


@torch.no_grad()
def test_images_of_other_sizes_keep_to_themselves(network: UPSNet) -> None:
    """Nothing is proposed, sampled or learnt beyond a smaller image of a batch."""
    batch = Batch.join(images(128, 96, 64))
    assert batch.data.shape[2:] == (128, 256)
    losses = losses_object(network, batch)
    proposals = losses.propose()
    sizes = [geometry.size for geometry in batch.geometries]
    assert len(set(sizes)) == 3
    for (height, width), boxes, number in zip(
        sizes, proposals.boxes, proposals.counts.tolist(), strict=True
    ):
        assert 20 < number <= TARGETS.rpn_top_n
        assert boxes.min() >= 0
        assert boxes[:number, 2].max() <= width - 1 and boxes[:number, 3].max() <= height - 1
        assert not boxes[number:].any()
        # What was found beyond the image would be a line on its edge.
        assert (boxes[:number, 1] >= height - 1).float().mean() < 0.05
    anchors = losses.anchors.boxes[0]
    for (height, width), labels in zip(sizes, losses.rpn_targets().labels, strict=True):
        inside = anchors[labels != IGNORED]
        assert len(inside) > 100
        assert inside[:, 2].max() < width and inside[:, 3].max() < height
    regions = losses.regions(proposals)
    weights = torch.zeros(3).index_add(0, regions.images, regions.weights)
    torch.testing.assert_close(weights, torch.full((3,), 1 / 3))
    assert all(bool(value.isfinite()) for value in losses_object(network, batch).all().values())


def test_a_step_launches_hardly_more_for_more_images() -> None:
    """Docs say how much; a wait for the device costs as much for one image as for all."""
    script: Any = load("training_launches")
    steps = {count: script.launches_of_step(count, size=(64, 128)) for count in (1, 3)}
    forward = {count: parts["forward"].total() for count, (parts, _) in steps.items()}
    assert forward[1] <= 722
    assert forward[3] - forward[1] < 20
    assert {waits for _, waits in steps.values()} == {8}
