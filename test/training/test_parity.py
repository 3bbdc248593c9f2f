"""Parity of training with the original on every training case of a folder of recorded results.

`UPSNET_PARITY_DIR` names the folder (layout: test/parity/README.md); by default test/parity. The
original computed the cases on a CPU; weights, images and labels are generated again from their
rules, and the original's random choices are played back.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import parity_folder
import pytest
import torch
from torch import Tensor

from upsnet_ros.datasets.base import Polygons, Sample, Thing
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network.checkpoint import load_state_dict
from upsnet_ros.network.panoptic_logits import mask_term, segment_term
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.training.image_losses import (
    ImageLosses,
    Prepared,
    compute_features,
    mask_targets,
    panoptic_target,
    prepare,
)
from upsnet_ros.training.loading import MASK_SIZE
from upsnet_ros.training.objective import total_loss
from upsnet_ros.training.optimizer import freeze_stages
from upsnet_ros.training.settings import LossSettings, Quirks, TargetSettings
from upsnet_ros.training.targets import IGNORED_PIXEL, Purpose, RegionTargets, RPNTargets

CASES = sorted((parity_folder.FOLDER / "cases").glob("train_*.npz"))
STRIDES = (4, 8, 16, 32, 64)
LOSS_NAMES = {
    "rpn_class": "rpn_cls_loss",
    "rpn_box": "rpn_bbox_loss",
    "box_class": "cls_loss",
    "box": "bbox_loss",
    "mask": "mask_loss",
    "semantic": "fcn_loss",
    "semantic_roi": "fcn_roi_loss",
    "panoptic": "panoptic_loss",
    "total": "total",
}
CALLERS = {
    Purpose.RPN_SURPLUS_POSITIVES: "_get_rpn_blobs",
    Purpose.RPN_NEGATIVES: "_get_rpn_blobs",
    Purpose.ROI_POSITIVES: "sample_rois",
    Purpose.ROI_NEGATIVES: "sample_rois",
    Purpose.PANOPTIC_KEPT: "forward",
}
#: The published configurations' habits, all of them.
ORIGINAL = Quirks(**dict.fromkeys(Quirks.__dataclass_fields__, True))


class Playback:
    """Gives back recorded choices, after checking that they could have been made here."""

    def __init__(self, want: Any) -> None:
        self.records: dict[str, list[np.ndarray]] = defaultdict(list)
        for index, caller in enumerate(want["choices_callers"].tolist()):
            self.records[caller].append(want[f"choice_{index}"])

    def choose(self, purpose: Purpose, candidates: Tensor, count: int) -> Tensor:
        chosen = torch.from_numpy(self.records[CALLERS[purpose]].pop(0))
        assert len(chosen) == count, purpose
        if purpose is Purpose.RPN_NEGATIVES:
            chosen = candidates[chosen]  # recorded as places among the candidates
        assert set(chosen.tolist()) <= set(candidates.tolist()), purpose
        return chosen

    def finished(self) -> bool:
        return not any(self.records.values())


@dataclass
class Run:
    """One case: what the original recorded, and what we compute."""

    want: Any
    meta: dict[str, Any]
    checksum: int
    image: Prepared
    network: UPSNet
    proposals: Tensor
    rpn: RPNTargets
    regions: RegionTargets
    masks: Tensor
    panoptic: Tensor
    samples: dict[str, Tensor]
    results: dict[str, Tensor]
    gradients: dict[str, float]
    playback: Playback


def _sample(want: Any, meta: dict[str, Any], num_stuff: int) -> Sample:
    things = []
    for instance in json.loads(str(want["instances_json"])):
        x, y, w, h = instance["bbox"]
        box = (x, y, x + max(w - 1, 0), y + max(h - 1, 0))
        shape = Polygons.of([instance["poly"]])
        things.append(Thing(semantic_id=num_stuff - 1 + instance["cls"], box=box, shape=shape))
    return Sample(
        name=meta["name"],
        image=parity_folder.image(meta),
        semantic=want["seg_gt_src"],
        things=tuple(things),
    )


def _geometry(want: Any, meta: dict[str, Any]) -> Geometry:
    source = (meta["src_h"], meta["src_w"])
    if "target" in meta:
        return Geometry.of(source, scale=meta["target"], max_size=meta["max_size"])
    *size, scale = want["im_info"][0].tolist()
    height, width = (int(side) for side in size)
    # Recorded as float32, while images are resized by the float64 it came from.
    exact = (new / old for new, old in zip((height, width), source, strict=True))
    scale = next((factor for factor in exact if np.float32(factor) == np.float32(scale)), scale)
    padded = want["seg_gt"].shape[1:]
    return Geometry(source, scale, (height, width), (padded[0], padded[1]))


@lru_cache(maxsize=1)
def _run(path: Path) -> Run:
    want = np.load(path)
    meta = json.loads(str(want["meta_json"]))
    variant = get_variant(meta["variant"])
    network = UPSNet(variant)
    tensors, checksum = parity_folder.weights(meta)
    load_state_dict(network, tensors, source=path.name)
    freeze_stages(network, 2)

    image = prepare(
        _sample(want, meta, variant.num_stuff),
        _geometry(want, meta),
        num_stuff=variant.num_stuff,
        seed=0,
        quirks=ORIGINAL,
    )
    recorded = json.loads(str(want["losses_json"]))
    weights = LossSettings(
        semantic=meta["fcn_loss_weight"],
        semantic_roi=0.2 * meta["fcn_loss_weight"] if "fcn_roi_loss" in recorded else 0.0,
        panoptic=meta["panoptic_loss_weight"],
        box=meta.get("bbox_loss_weight", 1.0),
    )
    targets = TargetSettings(kept_objects=meta["keep_fraction"])
    features = compute_features(network, [image.data]).of_image(0, image.geometry.padded)
    # The recorded indices count the recorded proposals; near-equal scores may swap ours.
    recorded_proposals = torch.from_numpy(want["train_proposals"][:, 1:])

    def losses() -> ImageLosses:
        return ImageLosses(
            network,
            features,
            image,
            targets=targets,
            losses=weights,
            quirks=ORIGINAL,
            chooser=Playback(want),
        )

    whole = losses()
    results = whole.all(proposals=recorded_proposals)
    results["total"] = total_loss(results, weights)
    results["total"].backward()
    with torch.no_grad():
        parts = losses()
        regions = parts.regions(recorded_proposals)
        kept = torch.from_numpy(want["panoptic_keep_inds"])
        boxes, classes = image.boxes[kept] * image.geometry.scale, image.classes[kept]
        masks = network.mask_branch(features.pyramid, boxes, classes)
        semantic = features.semantic[0]
        box_logits, deltas = network.rcnn(
            features.pyramid, torch.from_numpy(want["samp_rois"][:, 1:])
        )
        samples = {
            "data": image.data[None],
            "fcn_score": features.semantic,
            "mask_term": mask_term(boxes / 4, masks, tuple(semantic.shape[1:]))[None],
            "seg_inst": segment_term(boxes / 4, classes, semantic, variant.num_stuff)[None],
            "panoptic_logits": parts.panoptic_logits(kept)[None],
            "fcn_roi_score": parts.roi_scores(),
            "train_cls_score": box_logits,
            "train_bbox_pred": deltas,
        }
    return Run(
        want=want,
        meta=meta,
        checksum=checksum,
        image=image,
        network=network,
        proposals=parts.propose(),
        rpn=parts.rpn_targets(),
        regions=regions,
        masks=mask_targets(
            regions,
            shapes=image.shapes,
            crowd=image.crowd,
            resolution=MASK_SIZE,
            quirks=ORIGINAL,
        ),
        panoptic=parts.panoptic_target(kept),
        samples=samples,
        results={name: value.detach() for name, value in results.items()},
        gradients={
            name: float(parameter.grad.double().norm())
            for name, parameter in network.named_parameters()
            if parameter.grad is not None
        },
        playback=whole.chooser,
    )


@pytest.fixture(params=CASES, ids=lambda path: path.stem, scope="module")
def run(request: pytest.FixtureRequest) -> Run:
    return _run(request.param)


def test_there_are_cases() -> None:
    assert CASES, f"no training cases in {parity_folder.FOLDER}"


def test_labels_and_weights_are_those_of_the_case(run: Run) -> None:
    """The rules must have made the same inputs, or nothing below counts."""
    assert run.checksum == run.meta["weights_checksum"]
    np.testing.assert_array_equal(parity_folder.image(run.meta), run.want["image"])
    variant, recorded = run.network.variant, json.loads(str(run.want["instances_json"]))
    semantic, instances = parity_folder.rule("make_labels").make_labels(
        run.meta["src_h"],
        run.meta["src_w"],
        run.meta["seed"],
        num_things=variant.num_classes - 1,
        num_stuff=variant.num_stuff,
        n_inst=len(recorded),
    )
    assert instances == recorded
    np.testing.assert_array_equal(semantic, run.want["seg_gt_src"])


def test_prepared_labels(run: Run) -> None:
    image, want = run.image, run.want
    height, width, scale = want["im_info"][0]
    assert image.geometry.size == (height, width)
    assert np.float32(image.geometry.scale) == scale
    np.testing.assert_array_equal(image.boxes.numpy(), want["gt_boxes"])
    np.testing.assert_array_equal(image.classes.numpy(), want["gt_classes"])
    np.testing.assert_array_equal(image.semantic[None].numpy(), want["seg_gt"])
    np.testing.assert_array_equal(image.semantic_quarter[None].numpy(), want["seg_gt_4x"])
    np.testing.assert_array_equal(image.masks_quarter.numpy(), want["mask_gt"])
    if "seg_roi_gt" in want:
        np.testing.assert_array_equal(image.roi_semantic.numpy(), want["seg_roi_gt"])


def test_rpn_targets(run: Run) -> None:
    start, positives = 0, run.rpn.positives.numpy()
    assert int((run.rpn.labels == 1).sum()) == len(positives)
    for stride in STRIDES:
        want_labels = run.want[f"rpn_labels_{stride}"][0].transpose(1, 2, 0)
        height, width, count = want_labels.shape
        stop = start + want_labels.size
        labels = run.rpn.labels[start:stop].numpy().reshape(height, width, count)
        np.testing.assert_array_equal(labels, want_labels, err_msg=f"stride {stride}")

        here = (positives >= start) & (positives < stop)
        targets = np.zeros((height, width, count * 4), np.float32)
        y, x, anchor = np.unravel_index(positives[here] - start, want_labels.shape)
        for delta in range(4):
            targets[y, x, anchor * 4 + delta] = run.rpn.deltas[torch.from_numpy(here), delta]
        index = run.want[f"rpn_fg_{stride}_idx"]
        assert len(index) == 4 * here.sum()
        got = targets[index[:, 2], index[:, 3], index[:, 1]]
        np.testing.assert_allclose(got, run.want[f"rpn_fg_{stride}_target"], rtol=1e-5, atol=1e-6)
        labelled = int((run.rpn.labels >= 0).sum())
        np.testing.assert_allclose(run.want[f"rpn_fg_{stride}_outside_w"], 1 / labelled, rtol=1e-6)
        start = stop
    assert start == len(run.rpn.labels)


def test_proposals(run: Run) -> None:
    want = run.want["train_proposals"][:, 1:]
    assert len(run.proposals) == len(want)
    distance = np.abs(run.proposals.numpy()[None] - want[:, None]).max(axis=-1)
    # Scores next to the last one kept may change places, and take what they suppress along.
    assert (distance.min(axis=1) > 0.01).sum() <= len(want) // 400
    assert len(np.unique(distance.argmin(axis=1))) >= len(want) - len(want) // 400


def test_sampled_regions(run: Run) -> None:
    regions, want = run.regions, run.want
    scaled = regions.boxes * run.image.geometry.scale
    np.testing.assert_allclose(scaled.numpy(), want["samp_rois"][:, 1:], rtol=1e-6, atol=1e-4)
    np.testing.assert_array_equal(regions.classes.numpy(), want["samp_labels"])
    positives = len(regions.objects)
    assert positives == (want["samp_labels"] > 0).sum()
    deltas = want["samp_bbox_targets"][:positives]
    np.testing.assert_allclose(regions.deltas.numpy(), deltas, rtol=1e-4, atol=1e-5)


def test_mask_targets(run: Run) -> None:
    want = run.want
    rows = len(want["samp_mask_rois"])
    assert len(run.masks) == rows or (len(run.masks) == 0 and rows == 1)
    np.testing.assert_array_equal(run.masks.numpy(), want["samp_mask_target"][: len(run.masks)])
    np.testing.assert_array_equal(
        run.regions.classes[: len(run.masks)].numpy(), want["samp_mask_cls"][: len(run.masks)]
    )


def test_panoptic_target(run: Run) -> None:
    got = torch.where(run.panoptic == IGNORED_PIXEL, 255, run.panoptic)
    np.testing.assert_array_equal(got[None].numpy(), run.want["panoptic_gt"])


def test_sampled_tensors(run: Run) -> None:
    recorded = {key[2:-4] for key in run.want.files if key.startswith("s_") and "_idx" in key}
    assert recorded <= set(run.samples)
    for name in sorted(recorded):
        got = run.samples[name]
        assert list(got.shape) == run.want[f"s_{name}_shape"].tolist(), name
        index = torch.from_numpy(run.want[f"s_{name}_idx"]).long()
        np.testing.assert_allclose(
            got.detach().contiguous().flatten()[index].numpy(),
            run.want[f"s_{name}_val"],
            rtol=0,
            atol=1e-3,
            err_msg=name,
        )


def test_losses(run: Run) -> None:
    recorded = json.loads(str(run.want["losses_json"]))
    assert run.playback.finished()
    for ours, theirs in LOSS_NAMES.items():
        if theirs in recorded:
            got = float(run.results[ours])
            assert got == pytest.approx(recorded[theirs], rel=1e-4, abs=1e-6), ours
    for name, theirs in (("box", "rcnn"), ("panoptic", "panoptic")):
        want = recorded[f"{theirs}_accuracy"]
        assert float(run.results[f"{name}_accuracy"]) == pytest.approx(want, abs=2e-3), name


def test_gradient_norms(run: Run) -> None:
    recorded = json.loads(str(run.want["grad_norm_json"]))
    assert set(run.gradients) == set(recorded)
    wrong = {
        name: (run.gradients[name], want)
        for name, want in recorded.items()
        if run.gradients[name] != pytest.approx(want, rel=0.01, abs=1e-7)
    }
    assert not wrong


def test_panoptic_target_of_recorded_operands() -> None:
    """The operator alone, on random labels and masks."""
    want = parity_folder.unit_ops()
    kept = torch.from_numpy(want["mm_keep"])
    masks = torch.from_numpy(want["mm_mask"])[kept]
    got = panoptic_target(torch.from_numpy(want["mm_seg"])[0], masks, num_stuff=11)
    got = torch.where(got == IGNORED_PIXEL, 255, got)
    np.testing.assert_array_equal(got[None].numpy(), want["mm_void"])
