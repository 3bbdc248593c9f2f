"""Parity with detectron2's Panoptic FPN on every case of a folder of recorded results.

`PANOPTIC_FPN_PARITY_DIR` names the folder; by default test/panoptic_fpn. Weights and images are
generated again from their rules, and go through the network that ships stage by stage.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import panoptic_fpn_folder
import pytest
import torch
from torch import Tensor

from upsnet_ros import Predictor
from upsnet_ros.datasets.taxonomy import COCO
from upsnet_ros.inference.assemble import FrameSettings
from upsnet_ros.inference.network_paths import BatchedFrames
from upsnet_ros.inference.preprocess import Geometry, network_input
from upsnet_ros.network.batched_operators import Operators
from upsnet_ros.network.batched_path import UNLABELLED
from upsnet_ros.network.batched_selection import (
    Anchors,
    DetectionLists,
    select_detections,
    select_proposals,
)
from upsnet_ros.network.checkpoint import load_state_dict, recognise_variant
from upsnet_ros.network.panoptic_head import HeadOptions, Tile, upsample_part
from upsnet_ros.network.resnet import fold_batch_norm_
from upsnet_ros.network.rpn import grid_anchors
from upsnet_ros.network.semantic_head import STRIDES
from upsnet_ros.network.upsnet import UPSNet, unmeasured
from upsnet_ros.network.weights_file import from_detectron2
from upsnet_ros.ops.boxes import CONTINUOUS, RPN_WEIGHTS, clip_boxes, decode_boxes

CASES = sorted((panoptic_fpn_folder.FOLDER / "cases").glob("*.npz"))
SAMPLE_TOLERANCE = 1e-3
BOX_TOLERANCE = 0.01
#: Pixels of the panoptic map that must be the recorded ones.
LEAST_SHARE = 0.999


@dataclass
class Run:
    """One case: what detectron2 recorded, and what we compute."""

    want: Any
    image: Tensor
    geometry: Geometry
    data: Tensor
    samples: dict[str, Tensor]
    proposals: Tensor
    rpn: list[tuple[Tensor, Tensor]]
    detections: DetectionLists
    own_masks: Tensor
    semantic: Tensor
    labels: np.ndarray
    unknown: np.ndarray
    public_semantic: np.ndarray

    @property
    def number(self) -> int:
        """Of detections."""
        return int(self.detections.counts[0])


@lru_cache(maxsize=1)
def _run(path: Path) -> Run:
    want = np.load(path)
    meta = json.loads(str(want["meta_json"]))
    arrays = panoptic_fpn_folder.weights(meta["depth"], meta["seed"], meta["overrides"])
    tensors = from_detectron2({name: torch.from_numpy(x) for name, x in arrays.items()})
    variant = recognise_variant(tensors)
    assert variant is not None and variant.name == f"coco-fpn-{meta['depth']}"
    network = UPSNet(variant)
    load_state_dict(network, tensors, source=path.name)
    fold_batch_norm_(network)

    image = torch.from_numpy(want["image"])
    geometry = Geometry.of(
        image.shape[:2], scale=meta["min_size"], max_size=meta["max_size"], family=variant.family
    )
    operators, edge = Operators(), variant.box_edge
    limits = {"size": geometry.size, "operators": operators, "edge": edge}
    with torch.inference_mode():
        data = network_input(image[None], "bgr8", geometry, dtype=torch.float32)
        pyramid = network.fpn(network.resnet_backbone(data))
        anchors = Anchors.from_sizes(
            [x.shape[-2:] for x in pyramid],
            STRIDES,
            top_n=variant.rpn_top_n,
            device="cpu",
            edge=edge,
        )
        levels = network.rpn(pyramid)
        found = select_proposals(
            levels,
            anchors,
            top_n=variant.rpn_top_n,
            nms_threshold=variant.rpn_nms_threshold,
            **limits,
        )
        pooled = operators.pool(pyramid, found.boxes, found.counts, 7, edge=edge)
        detections = select_detections(
            found,
            *network.rcnn.classify(pooled),
            score_threshold=torch.tensor([variant.instance_score_threshold]),
            nms_threshold=variant.nms_threshold,
            limit=variant.max_detections,
            **limits,
        )
        # Samples of what is pooled and said of it are in the order of the recorded boxes.
        recorded = torch.from_numpy(want["proposals"])[None]
        pooled = operators.pool(pyramid, recorded, torch.tensor([recorded.shape[1]]), 7, edge=edge)
        logits, deltas = network.rcnn.classify(pooled)
        semantic = network.fcn_head(pyramid)
        samples = {
            **{f"p{level + 2}": x for level, x in enumerate(pyramid)},
            "box_pooled": pooled,
            "cls_logits": logits.roll(-1, dims=1),
            "deltas": deltas[:, 4:],
            "sem_logits": semantic.roll(1, dims=1),
        }
        own_masks = torch.zeros(0, 28, 28)
        if len(want["det_boxes"]):
            recorded = torch.from_numpy(want["det_boxes"])[None]
            number = torch.tensor([recorded.shape[1]])
            samples["mask_pooled"] = operators.pool(pyramid, recorded, number, 14, edge=edge)
            classes = torch.from_numpy(want["det_classes"]) + 1
            own_masks = network.mask_branch.logits(samples["mask_pooled"], classes)
        frames = BatchedFrames(
            network,
            geometry=lambda *_: geometry,
            bilinear=True,
            public_ids=torch.tensor(COCO.public_ids),
            graphs=None,
        )
        settings = FrameSettings(score_threshold=0.5, head=HeadOptions(confidence=True))
        (frame,) = frames.compute([image], settings, encoding="bgr8", stage=unmeasured)
    assert frame.semantic is not None
    return Run(
        want=want,
        image=image,
        geometry=geometry,
        data=data,
        samples=samples,
        proposals=found.boxes[0, : int(found.counts[0])],
        rpn=levels,
        detections=detections,
        own_masks=own_masks,
        semantic=semantic[0],
        labels=frame.labels.numpy(),
        unknown=frame.unknown.numpy(),
        public_semantic=frame.semantic.numpy(),
    )


@pytest.fixture(params=CASES, ids=lambda path: path.stem, scope="module")
def run(request: pytest.FixtureRequest) -> Run:
    return _run(request.param)


def test_there_are_cases() -> None:
    assert CASES, f"no cases in {panoptic_fpn_folder.FOLDER}"


def test_inputs_are_those_of_the_case(run: Run) -> None:
    """The rule must have made the same image; resizing it is part of what is compared."""
    meta = json.loads(str(run.want["meta_json"]))
    make = panoptic_fpn_folder.rule("make_images").make_image
    made = make(meta["src_h"], meta["src_w"], meta["seed"])
    np.testing.assert_array_equal(made, run.want["image"])
    height, width = run.geometry.size
    assert run.want["resized"].shape == (height, width, 3)
    means = np.array((103.53, 116.28, 123.675), np.float32)
    want = (run.want["resized"].astype(np.float32) - means).transpose(2, 0, 1)
    np.testing.assert_array_equal(run.data[0, :, :height, :width].numpy(), want)
    assert not run.data[0, :, height:].any() and not run.data[0, :, :, width:].any()


def test_sampled_tensors(run: Run) -> None:
    recorded = {key[2:-4] for key in run.want.files if key.startswith("s_") and "_idx" in key}
    assert recorded == set(run.samples)
    for name, x in run.samples.items():
        assert list(x.shape) == run.want[f"s_{name}_shape"].tolist(), name
        got = x.contiguous().flatten()[torch.from_numpy(run.want[f"s_{name}_idx"]).long()]
        want = run.want[f"s_{name}_val"]
        np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=SAMPLE_TOLERANCE, err_msg=name)


def _match(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Return for each wanted row the index of a got row of its own within the box tolerance."""
    assert got.shape == want.shape
    if not len(want):
        return np.zeros(0, int)
    distance = np.abs(got[None] - want[:, None]).max(axis=-1)
    index = distance.argmin(axis=1)
    assert distance[np.arange(len(want)), index].max() <= BOX_TOLERANCE
    assert len({*index.tolist()}) == len(want)
    return index


def test_proposals(run: Run) -> None:
    index = _match(run.proposals.numpy(), run.want["proposals"])
    # Best first, by the recorded logits.
    in_our_order = run.want["objectness"][index.argsort()]
    assert (np.diff(in_our_order) <= SAMPLE_TOLERANCE).all()


def test_objectness(run: Run) -> None:
    """The logit that ranked each recorded proposal is that of an anchor that decodes to it.

    Boxes that clipping makes equal are of several anchors, and each of those logits may be it.
    """
    boxes, logits = [], []
    for (scores, deltas), stride in zip(run.rpn, STRIDES, strict=True):
        height, width = scores.shape[-2:]
        anchors = grid_anchors(height, width, stride=stride, device="cpu", edge=CONTINUOUS)
        moves = deltas[0].permute(1, 2, 0).reshape(-1, 4)
        decoded = decode_boxes(anchors, moves, RPN_WEIGHTS, edge=CONTINUOUS)
        ranks = scores[0].permute(1, 2, 0).reshape(-1)
        best = ranks.topk(min(1000, len(ranks))).indices
        boxes.append(clip_boxes(decoded[best], run.geometry.size, edge=CONTINUOUS))
        logits.append(ranks[best])
    box, logit = torch.cat(boxes).numpy(), torch.cat(logits).numpy()
    want, recorded = run.want["proposals"], run.want["objectness"]
    assert recorded.shape == (len(want),) and (np.diff(recorded) <= 0).all()
    for proposal, score in zip(want, recorded, strict=True):
        same = np.abs(box - proposal).max(axis=1) <= BOX_TOLERANCE
        assert np.abs(logit[same] - score).min() <= SAMPLE_TOLERANCE


def test_detections(run: Run) -> None:
    boxes, scores, classes = (
        x[0, : run.number].numpy()
        for x in (run.detections.boxes, run.detections.scores, run.detections.classes)
    )
    got = np.concatenate((boxes, (classes[:, None] - 1) * 1000.0), axis=1)
    wanted = run.want["det_classes"][:, None] * 1000.0
    index = _match(got, np.concatenate((run.want["det_boxes"], wanted), axis=1))
    np.testing.assert_allclose(scores[index], run.want["det_scores"], rtol=0, atol=SAMPLE_TOLERANCE)


def test_masks(run: Run) -> None:
    if not run.number:
        assert "mask_logits_own" not in run.want.files
        return
    want = run.want["mask_logits_own"].astype(np.float32)  # recorded in half precision
    np.testing.assert_allclose(run.own_masks.numpy(), want, rtol=1e-3, atol=SAMPLE_TOLERANCE)


def test_semantic_argmax(run: Run) -> None:
    grid = run.geometry.camera_grid()
    height, width = grid.size
    whole = Tile(0, height, 0, width, torch.empty(0))
    logits = upsample_part(run.semantic, whole, scale=grid.scale, via=grid.via)
    got = logits.roll(1, dims=0).argmax(dim=0).numpy()
    close = np.unpackbits(run.want["sem_low_margin_bits"])[: height * width].astype(bool)
    np.testing.assert_array_equal(
        got[~close.reshape(height, width)],
        run.want["sem_argmax"][~close.reshape(height, width)],
    )


def _labels(want: Any) -> np.ndarray:
    """The recorded panoptic map with our labels."""
    labels = np.zeros(want["panoptic"].shape, int)
    number: dict[int, int] = {}
    for segment in json.loads(str(want["segments_json"])):
        if segment["isthing"]:
            public = COCO.public_ids[COCO.num_stuff + segment["category_id"]]
            number[public] = number.get(public, 0) + 1
            label = 1000 * public + number[public]
        else:
            label = COCO.public_ids[segment["category_id"] - 1]
        labels[want["panoptic"] == segment["id"]] = label
    return labels


def test_panoptic_map(run: Run) -> None:
    assert (run.labels == _labels(run.want)).mean() >= LEAST_SHARE


@pytest.mark.long  # writes and reads 184 MB
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_from_a_file_of_the_zoo_to_labels(path: Path, tmp_path: Path) -> None:
    """By the Predictor alone, from a pickle of arrays under detectron2's names."""
    want = np.load(path)
    meta = json.loads(str(want["meta_json"]))
    arrays = panoptic_fpn_folder.weights(meta["depth"], meta["seed"], meta["overrides"])
    file = tmp_path / "model_final.pkl"
    file.write_bytes(pickle.dumps({"model": arrays, "__author__": "rule"}, protocol=2))
    predictor = Predictor(file, device="cpu", scale=meta["min_size"])
    geometry = predictor.geometry(*want["image"].shape[:2])
    assert (*geometry.size, 3) == want["resized"].shape
    frame = predictor(want["image"])
    assert (frame.labels == _labels(want)).mean() >= LEAST_SHARE
    things = [one for one in json.loads(str(want["segments_json"])) if one["isthing"]]
    assert len(frame.instances) == len(things)
    by_label = sorted(round(one["score"], 3) for one in things)
    np.testing.assert_allclose(
        sorted(one.score for one in frame.instances), by_label, rtol=0, atol=2e-3
    )


def test_unknown_is_where_the_semantic_head_sees_a_thing_that_no_instance_is(run: Run) -> None:
    """Also in `semantic`, where a thing that an instance is has its class."""
    thing = run.want["sem_argmax"] == 0
    nobody = run.labels < 1000
    close = np.unpackbits(run.want["sem_low_margin_bits"])[: thing.size].astype(bool)
    sure = ~close.reshape(thing.shape)
    np.testing.assert_array_equal(run.unknown[sure], (thing & nobody)[sure])
    owned = thing & sure & ~nobody
    np.testing.assert_array_equal(run.public_semantic[owned], run.labels[owned] // 1000)
    assert (run.public_semantic[thing & sure & nobody] == UNLABELLED).all()
    stuff_ids = np.array([0, *COCO.public_ids[: COCO.num_stuff]])
    stuff = ~thing & sure
    np.testing.assert_array_equal(
        run.public_semantic[stuff], stuff_ids[run.want["sem_argmax"][stuff]]
    )
