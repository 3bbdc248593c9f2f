"""Parity of the batched network with the original, on every case of the recorded folder.

The frame that ships takes `network.batched_path` rather than `UPSNet.forward`, which
`test/network/test_parity.py` holds to the original. Here every case runs through it with the
operators for a CPU, as the second image of a batch, and each stage is compared by the same
tolerances. What it does not compute is not compared: detections suppressed class by class, which
only instance AP asks for, and the padding, which it leaves out of the panoptic head.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import parity_checks
import parity_folder
import pytest
import torch
from parity_checks import CASES, SAMPLE_TOLERANCE, match, same_detections, share_equal
from torch import Tensor, nn

from upsnet_ros.inference.preprocess import Geometry, network_input
from upsnet_ros.network.batched_operators import KernelOperators, Operators
from upsnet_ros.network.batched_path import BatchedPath, BatchedResult, Sizes
from upsnet_ros.network.batched_selection import DetectionLists, ProposalLists
from upsnet_ros.network.checkpoint import load_state_dict
from upsnet_ros.network.instance_head import BOX_POOL, MASK_POOL, Detections, nothing_found
from upsnet_ros.network.panoptic_head import Grid, HeadOptions
from upsnet_ros.network.panoptic_logits import mask_term, panoptic_logits, segment_term
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.ops import dispatch
from upsnet_ros.ops.mask_removal import Accepted
from upsnet_ros.ops.panoptic import UNKNOWN, HeadMaps
from upsnet_ros.ops.segments import LABEL_DIVISOR


class Recorder:
    """Operators that run others and keep what goes in and out of them.

    Args:
        operators: Those that compute.
        image: Which image of the batch is the case's.
        want: The case: where masks only just pass or fail, what follows is computed from the
            original's decisions.
        padded: Height and width of the network's input.
    """

    def __init__(
        self, operators: Operators, *, image: int, want: Any, padded: tuple[int, int]
    ) -> None:
        self._operators, self._image, self._want, self._padded = operators, image, want, padded
        self.proposals: ProposalLists
        self.before: DetectionLists
        self.before_masks: Tensor
        self.kept: Tensor
        self.decisions: Tensor
        self.after: DetectionLists
        self.after_masks: Tensor
        self.semantic: Tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operators, name)

    def pool(
        self,
        pyramid: Sequence[Tensor],
        boxes: Tensor,
        numbers: Tensor,
        output_size: int,
        **options: Any,
    ) -> Tensor:
        if output_size == BOX_POOL:
            self.proposals = ProposalLists(boxes, numbers)
        else:
            assert output_size == MASK_POOL
        return self._operators.pool(pyramid, boxes, numbers, output_size, **options)

    def accept(self, detections: DetectionLists, mask_logits: Tensor, **options: Any) -> Accepted:
        self.before, self.before_masks = detections, mask_logits
        accepted = self._operators.accept(detections, mask_logits, **options)
        image, count = self._image, int(accepted.counts[self._image])
        self.kept = self.decisions = accepted.indices[image, :count].long()
        recorded = torch.from_numpy(self._want["keep_inds"]).long()
        before, masks = self.detections(detections), mask_logits[image]
        if not torch.equal(self.kept, recorded) and parity_checks.may_be_kept(
            recorded,
            before,
            mask_term(before.boxes, masks[: len(before)], self._padded) > 0,
            threshold=options["share"],
        ):
            self.decisions = recorded
            accepted.indices[image] = 0
            accepted.indices[image, : len(recorded)] = recorded.int()
            accepted.counts[image] = len(recorded)
        return accepted

    def head(
        self,
        semantic: Tensor,
        detections: DetectionLists,
        mask_logits: Tensor,
        *values: Any,
        **options: Any,
    ) -> HeadMaps:
        self.semantic, self.after, self.after_masks = semantic, detections, mask_logits
        return self._operators.head(semantic, detections, mask_logits, *values, **options)

    def detections(self, lists: DetectionLists) -> Detections:
        """Return the case's detections; `nothing_found` where there are none, as the original."""
        if not lists.counts[self._image] or not lists.classes[self._image, 0]:
            return nothing_found(lists.boxes.device)
        return lists.of_image(self._image)


@dataclass
class Run:
    """A case: what the original recorded, and what the batched network made of it."""

    want: Any
    meta: dict[str, Any]
    weights_checksum: int
    geometry: Geometry
    image: int
    data: Tensor
    outputs: dict[str, Tensor]
    operators: Recorder
    result: BatchedResult
    num_stuff: int

    @property
    def size(self) -> tuple[slice, slice]:
        """The original's padded maps without the padding."""
        height, width = self.geometry.size
        return slice(height), slice(width)

    @property
    def least_share(self) -> float:
        ops = self.operators
        return parity_checks.least_share(same_decisions=ops.decisions is ops.kept)

    @property
    def proposals(self) -> Tensor:
        lists = self.operators.proposals
        return lists.boxes[self.image, : int(lists.counts[self.image])]

    def of_proposals(self, name: str) -> Tensor:
        """Return an output of the box head for the case's proposals."""
        rows = self.outputs[name].view(len(self.data), -1, self.outputs[name].shape[1])
        return rows[self.image, : len(self.proposals)]


def _outputs_of(network: UPSNet) -> dict[str, Any]:
    """Return what modules put out in the next run, by the names of the recorded tensors."""
    outputs: dict[str, Any] = {}

    def keep(module: nn.Module, name: str) -> None:
        module.register_forward_hook(lambda _module, _input, output: outputs.update({name: output}))

    keep(network.resnet_backbone, "res")
    keep(network.fpn, "p")
    keep(network.rpn, "rpn")
    keep(network.rcnn.cls_score, "class_logits")
    keep(network.rcnn.bbox_pred, "deltas")
    keep(network.fcn_head, "fcn_score")
    levels = outputs["fcn_subnet"] = []
    network.fcn_head.fcn_subnet.register_forward_hook(
        lambda _module, _input, output: levels.append(output)
    )
    return outputs


def _run(path: Path, operators: Operators, *, batch: int) -> Run:
    want = np.load(path)
    meta = json.loads(str(want["meta_json"]))
    variant = replace(get_variant(meta["variant"]), stuff_area_limit=meta["stuff_area_limit"])
    tensors, checksum = parity_folder.weights(meta)
    network = UPSNet(variant)
    load_state_dict(network, tensors, source=path.name)
    outputs = _outputs_of(network)

    pixels = torch.from_numpy(parity_folder.image(meta))
    geometry = Geometry.of(pixels.shape[:2], scale=meta["target"], max_size=meta["max_size"])
    # The case's is the last; what else is in the batch must not matter.
    others = [pixels.flip(1), pixels.flip(0)][: batch - 1]
    device = torch.device("cpu")
    rows, columns = geometry.source_rows_and_columns(device)
    recorder = Recorder(operators, image=batch - 1, want=want, padded=geometry.padded)
    path_of_batch = BatchedPath(
        network,
        sizes=Sizes(
            batch=batch, padded=geometry.padded, size=geometry.size, grid=Grid(geometry.size)
        ),
        rows=rows,
        columns=columns,
        public_ids=torch.arange(1, variant.num_seg_classes + 1),
        operators=recorder,
    )
    with torch.inference_mode():
        images = torch.stack([*others, pixels])
        data = network_input(images, "bgr8", geometry, dtype=torch.float32)
        result = path_of_batch(
            data,
            score_threshold=torch.tensor([variant.panoptic_score_threshold]),
            unknown_margin=torch.zeros(1),
            options=HeadOptions(),
        )
    return Run(
        want=want,
        meta=meta,
        weights_checksum=checksum,
        geometry=geometry,
        image=batch - 1,
        data=data,
        outputs=outputs,
        operators=recorder,
        result=result,
        num_stuff=variant.num_stuff,
    )


@lru_cache(maxsize=1)
def _on_cpu(path: Path) -> Run:
    return _run(path, Operators(), batch=2)


@pytest.fixture(params=CASES, ids=lambda path: path.stem, scope="module")
def run(request: pytest.FixtureRequest) -> Run:
    return _on_cpu(request.param)


def test_there_are_cases() -> None:
    assert CASES, f"no cases in {parity_folder.FOLDER}"


def check_inputs(run: Run) -> None:
    assert run.weights_checksum == run.meta["weights_checksum"]
    height, width, scale = run.want["im_info"][0]
    assert run.geometry.size == (height, width)
    assert np.float32(run.geometry.scale) == scale
    assert list(run.geometry.padded) == run.meta["padded"]


def _dense_logits(run: Run) -> dict[str, Tensor]:
    """Return the panoptic head's terms by their definition, of what the head was given."""
    operators, image, size = run.operators, run.image, run.geometry.padded
    after = operators.after.of_image(image)
    masks = operators.after_masks[image, : len(after)]
    semantic = operators.semantic[image, None]
    upsampled = nn.functional.interpolate(
        semantic, scale_factor=4.0, mode="bilinear", align_corners=False
    )
    mask_map = mask_term(after.boxes, masks, size)
    cuts = segment_term(after.boxes, after.classes, upsampled[0], run.num_stuff)
    dense = panoptic_logits(upsampled[0], after.boxes, after.classes, mask_map, run.num_stuff)
    return {
        "fcn_output": upsampled,
        "mask_energy": mask_map[None],
        "seg_logits": upsampled[:, : run.num_stuff],
        "seg_inst_logits": cuts[None],
        "void_logit": dense[None, -1:],
        "dense": dense[None],
    }


def check_sampled_tensors(run: Run) -> None:
    image, outputs = slice(run.image, run.image + 1), run.outputs
    levels = [
        nn.functional.interpolate(
            x[image], scale_factor=float(2**i), mode="bilinear", align_corners=False
        )
        if i
        else x[image]
        for i, x in enumerate(outputs["fcn_subnet"])
    ]
    samples = {
        "data": run.data[image],
        **{f"res{i + 2}": x[image] for i, x in enumerate(outputs["res"])},
        **{f"p{i + 2}": x[image] for i, x in enumerate(outputs["p"])},
        **{f"rpn_cls_logit_p{i + 2}": x[image] for i, (x, _) in enumerate(outputs["rpn"])},
        **{f"rpn_bbox_p{i + 2}": x[image] for i, (_, x) in enumerate(outputs["rpn"])},
        "fcn_score": outputs["fcn_score"][image],
        "fcn_feat": torch.cat(levels, dim=1),
        **_dense_logits(run),
    }
    parity_checks.check_samples(samples, run.want)


def check_proposals(run: Run) -> None:
    index = match(run.proposals, run.want["rois"][:, 1:])
    # Lists have no scores: those recorded must descend in our order.
    scores = run.want["roi_scores"][index.argsort(kind="stable")]
    np.testing.assert_allclose(scores, np.sort(scores)[::-1], rtol=0, atol=SAMPLE_TOLERANCE)


def check_box_head(run: Run) -> None:
    index = match(run.proposals, run.want["rois"][:, 1:])
    parity_checks.check_box_head(
        run.of_proposals("class_logits"), run.of_proposals("deltas"), run.want, index
    )


def check_detections(run: Run) -> None:
    operators = run.operators
    before = operators.detections(operators.before)
    index = same_detections(before, run.want, "pan_pre")
    if before.classes.any():  # else the mask head has nothing to do
        np.testing.assert_allclose(
            operators.before_masks[run.image, : len(before)].numpy()[index],
            run.want["pan_pre_mask_logit"],
            atol=2 * SAMPLE_TOLERANCE,
        )
    np.testing.assert_array_equal(operators.decisions.numpy(), run.want["keep_inds"])
    same_detections(operators.detections(operators.after), run.want, "pan_post")


def check_maps(run: Run) -> None:
    panoptic, semantic = run.result.maps.panoptic[run.image], run.result.maps.semantic[run.image]
    assert share_equal(panoptic, run.want["panoptic_outputs"][run.size]) >= run.least_share
    assert share_equal(semantic, run.want["fcn_argmax"][run.size]) >= 0.999
    ids = _dense_logits(run)["dense"][0].argmax(dim=0)
    ids[ids == ids.new_tensor(run.num_stuff + len(run.operators.decisions))] = UNKNOWN
    assert (ids[run.size] == panoptic).float().mean() >= 0.9999


def _labels(semantic: np.ndarray, instance: np.ndarray, num_stuff: int) -> np.ndarray:
    """Return the original's two maps as labels: it counts instances across classes."""
    semantic, instance = semantic.astype(int), instance.astype(int)
    labels = np.where(semantic == 255, 0, semantic + 1)
    for class_id in range(num_stuff, 255):
        numbers = np.unique(instance[semantic == class_id])
        for rank, number in enumerate(numbers.tolist(), start=1):
            this = (semantic == class_id) & (instance == number)
            labels[this] = (class_id + 1) * LABEL_DIVISOR + rank
    return labels


def check_segments(run: Run) -> None:
    labels = run.result.segments.labels[run.image].numpy()
    want = _labels(run.want["pan2ch_sem"], run.want["pan2ch_ins"], run.num_stuff)
    equal = labels == want
    assert equal.mean() >= run.least_share
    # The original draws unknown pixels as void, and small stuff.
    assert not labels[run.result.segments.unknown[run.image].numpy()].any()

    table = run.result.segments.table[run.image].numpy()
    table = table[table[:, 2] > 0]
    assert len(table) == int(run.result.segments.num_segments[run.image])
    rows = run.want["segments"]
    assert sorted(table[:, 1].tolist()) == sorted(rows[:, 1].tolist())
    table, rows = (x[np.lexsort((x[:, k], x[:, 1]))] for x, k in ((table, 0), (rows, 0)))
    np.testing.assert_allclose(table[:, 2], rows[:, 4], atol=max(4, 0.001 * labels.size))
    if equal.all():  # a single pixel may move a corner
        np.testing.assert_array_equal(table[:, 3:5], rows[:, 5:7])
        np.testing.assert_array_equal(table[:, 5:7], rows[:, 5:7] + rows[:, 7:9])


STAGES = [
    check_inputs,
    check_sampled_tensors,
    check_proposals,
    check_box_head,
    check_detections,
    check_maps,
    check_segments,
]


@pytest.mark.parametrize("check", STAGES, ids=lambda check: check.__name__.removeprefix("check_"))
def test_stage(run: Run, check: Any) -> None:
    check(run)


def _size(path: Path) -> tuple[bool, int]:
    meta = json.loads(str(np.load(path)["meta_json"]))
    return meta["n_pan_kept"] < 2, meta["padded"][0] * meta["padded"][1]


#: From one pooled box to the next, by bins a side: 40 of 1000 proposals, 14 of 112 detections.
_STEPS = {BOX_POOL: 25, MASK_POOL: 8}


class _Kernels(KernelOperators):
    """Kernels; RoIAlign's pools some of the boxes, since all of them take Python an hour."""

    def pool(
        self,
        pyramid: Sequence[Tensor],
        boxes: Tensor,
        numbers: Tensor,
        output_size: int,
        **options: Any,
    ) -> Tensor:
        pooled = Operators().pool(pyramid, boxes, numbers, output_size, **options)
        step = _STEPS[output_size]
        some = boxes[:, ::step].contiguous()
        there = (numbers + step - 1) // step
        own = super().pool(pyramid, some, there, output_size, **options)
        lists = pooled.unflatten(0, boxes.shape[:2])
        for image, count in enumerate(there.tolist()):
            assert count > 0
            chosen = own.unflatten(0, some.shape[:2])[image, :count]
            torch.testing.assert_close(chosen, lists[image, ::step][:count], rtol=1e-3, atol=1e-3)
            lists[image, : count * step : step] = chosen
        return pooled


@pytest.mark.long  # every program of the other kernels in Python
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs TRITON_INTERPRET=1, which is set where there is no GPU",
)
def test_smallest_case_by_kernels() -> None:
    pytest.importorskip("triton")
    with dispatch.interpreted():
        run = _run(min(CASES, key=_size), _Kernels(), batch=1)
    assert dispatch.failures() == {}
    for check in STAGES:
        check(run)
