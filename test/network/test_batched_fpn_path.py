"""A small Panoptic FPN through the batched path, by every form of its operators."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import replace
from typing import get_args

import pytest
import torch

from upsnet_ros.inference.assemble import Assembly, FrameSettings
from upsnet_ros.inference.cuda_graph import Function, GraphCache, Select
from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.inference.network_paths import BatchedFrames
from upsnet_ros.inference.preprocess import Geometry, network_input
from upsnet_ros.network import batched_operators as by_kernels
from upsnet_ros.network.batched_operators import KernelOperators, Operators
from upsnet_ros.network.batched_path import BatchedPath, BatchedResult, Sizes
from upsnet_ros.network.panoptic_head import HeadOptions
from upsnet_ros.network.resnet import fold_batch_norm_
from upsnet_ros.network.upsnet import UPSNet, unmeasured
from upsnet_ros.network.variants import Merge, get_variant
from upsnet_ros.ops import dispatch
from upsnet_ros.ops.boxes import LARGEST_LIST
from upsnet_ros.ops.segments import ClassMap

SOURCE = (75, 110)
GEOMETRY = Geometry.of(SOURCE, scale=60, max_size=96, family="panoptic_fpn")
PUBLIC_IDS = torch.arange(1, 134)
MERGES: tuple[Merge, ...] = get_args(Merge)
EVERYTHING = HeadOptions(unknown_score=True, confidence=True, max_logit=True)


@pytest.fixture(scope="module")
def network() -> UPSNet:
    # Small in channels and lists too, for Triton's interpreter.
    variant = replace(
        get_variant("coco-fpn-r50"),
        depths=(1, 1, 1, 1),
        fpn_channels=32,
        box_channels=32,
        semantic_channels=32,
        stuff_area_limit=60,
        max_detections=16,
        rpn_top_n=56,
    )
    network = UPSNet(variant)
    draw_weights_(network, seed=2)
    fold_batch_norm_(network)
    return network


@torch.inference_mode()
def _run(
    network: UPSNet,
    operators: Operators,
    batch: int,
    class_map: ClassMap | None = None,
    *,
    merge: Merge = "heuristic",
) -> BatchedResult:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (batch, *SOURCE, 3), dtype=torch.uint8, generator=generator)
    data = network_input(pixels, "bgr8", GEOMETRY, dtype=torch.float32)
    path = BatchedPath(
        network,
        sizes=Sizes(
            batch=batch,
            padded=GEOMETRY.padded,
            size=GEOMETRY.size,
            grid=GEOMETRY.camera_grid(),
        ),
        rows=torch.arange(SOURCE[0]),
        columns=torch.arange(SOURCE[1]),
        public_ids=PUBLIC_IDS if class_map is None else torch.tensor([7, 26]),
        class_map=class_map,
        merge=merge,
        operators=operators,
    )
    return path(
        data,
        score_threshold=torch.tensor([0.06]),
        unknown_margin=torch.tensor([0.0]),
        options=EVERYTHING,
    )


def _check(got: BatchedResult, want: BatchedResult) -> None:
    """Sums in another order may decide a pixel on an outline otherwise."""
    for image, number in enumerate(want.detections.counts.tolist()):
        assert int(got.detections.counts[image]) == number
        classes = want.detections.classes[image, :number]
        assert torch.equal(got.detections.classes[image, :number], classes)
        boxes = got.detections.boxes[image, :number]
        torch.testing.assert_close(boxes, want.detections.boxes[image, :number], atol=1e-2, rtol=0)
    same = (got.segments.labels == want.segments.labels).float().mean()
    assert same > 0.995 and (got.segments.unknown == want.segments.unknown).float().mean() > 0.995
    assert got.segments.semantic is not None and want.segments.semantic is not None
    assert (got.segments.semantic == want.segments.semantic).float().mean() > 0.995
    for name in ("unknown_score", "confidence", "max_logit"):
        mine, wanted = (getattr(x.maps, name).float() for x in (got, want))
        assert torch.isclose(mine, wanted, atol=1, rtol=1e-3).float().mean() > 0.995, name
    areas = want.segments.table[:, :, 2]
    assert (areas[:, network_stuff(want) :] > 0).any() and (
        areas[:, : network_stuff(want)] > 0
    ).any()


def network_stuff(result: BatchedResult) -> int:
    """Rows of the table that are of stuff."""
    return result.segments.table.shape[1] - result.detections.classes.shape[1]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("batch", [1, 2])
def test_references_of_kernels_equal_the_form_for_a_cpu(
    network: UPSNet, batch: int, merge: Merge
) -> None:
    want = _run(network, Operators(), batch, merge=merge)
    _check(_run(network, KernelOperators(), batch, merge=merge), want)
    assert int(want.detections.counts.min()) > 2


@pytest.mark.parametrize(
    ("merge", "name"),
    [
        *(("heuristic", name) for name in ("nms", "fpn_roi_align", "hidden_masks")),
        ("heuristic", "heuristic_merge"),
        ("heuristic", "segments"),
        ("upsnet", "hidden_masks"),
        ("upsnet", "panoptic"),
    ],
)
def test_what_kernels_do_not_run_falls_back_to_dynamic_operators(
    network: UPSNet, merge: Merge, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = _run(network, Operators(), 1, merge=merge)
    monkeypatch.setattr(by_kernels, "missing", lambda device: (name,))
    taken = {
        "nms": ("batched_nms",),
        "fpn_roi_align": ("fpn_roi_align",),
        "hidden_masks": ("accept_masks", "merged_maps"),
        "heuristic_merge": ("accept_masks", "merged_maps"),
        "panoptic": ("panoptic_maps",),
        "segments": ("batched_segment_table",),
    }
    for function in taken[name]:
        monkeypatch.delattr(by_kernels, function)
    _check(_run(network, KernelOperators(), 1, merge=merge), want)


class _Recorder:
    """Stands in for a GPU's: what it records it calls."""

    records = 0

    def record(self, function: Function, inputs: tuple[torch.Tensor, ...]) -> _Recorder:
        function(*inputs)
        self.records += 1
        self._function = function
        return self

    def replay(self, inputs: tuple[torch.Tensor, ...], select: Select) -> list[Assembly]:
        return [select(assembly) for assembly in self._function(*inputs)]

    def release(self) -> None: ...

    def free(self) -> None: ...


@pytest.mark.parametrize("merge", MERGES)
def test_every_merge_is_captured(network: UPSNet, merge: Merge) -> None:
    recorder = _Recorder()
    frames = BatchedFrames(
        network,
        geometry=lambda *_: GEOMETRY,
        bilinear=True,
        public_ids=PUBLIC_IDS,
        graphs=GraphCache(torch.device("cpu"), recorder=recorder),
        merge=merge,
    )
    image = torch.randint(256, (*SOURCE, 3), dtype=torch.uint8)
    settings = FrameSettings(score_threshold=0.06, head=HeadOptions())
    call = {"encoding": "bgr8", "stage": unmeasured}
    first, again = (frames.compute([image], settings, **call)[0] for _ in range(2))
    assert torch.equal(first.labels, again.labels)
    assert recorder.records == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("merge", MERGES)
def test_on_a_gpu_a_graph_gives_the_frames_of_dynamic_operators(
    network: UPSNet, merge: Merge, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    on_gpu = deepcopy(network).to(device)
    image = torch.randint(256, (*SOURCE, 3), dtype=torch.uint8, device=device)
    settings = FrameSettings(score_threshold=0.06, head=HeadOptions(confidence=True))

    def frames(graphs: GraphCache | None) -> list[Assembly]:
        made = BatchedFrames(
            on_gpu,
            geometry=lambda *_: GEOMETRY,
            bilinear=True,
            public_ids=PUBLIC_IDS.to(device),
            graphs=graphs,
            merge=merge,
        )
        return [
            made.compute([image], settings, encoding="bgr8", stage=unmeasured)[0].to_host()
            for _ in range(3)
        ]

    graphs = GraphCache(device)
    captured = frames(graphs)
    assert dispatch.failures() == {} and len(graphs) == 1
    monkeypatch.setattr(dispatch, "_enabled", False)
    (want, *_) = frames(None)
    for got in captured:
        assert (got.labels == want.labels).float().mean() > 0.99


def _two_classes() -> ClassMap:
    """All stuff but two classes as one, and every third class of things as another."""
    targets: list[int | None] = [None if n < 2 else 0 for n in range(53)]
    targets += [1 if n % 3 == 0 else None for n in range(80)]
    return ClassMap.from_targets(targets, num_stuff=53, new_stuff=1, new_classes=2, device="cpu")


def test_a_label_map_does_not_depend_on_the_operators(network: UPSNet) -> None:
    want = _run(network, Operators(), 2, _two_classes())
    got = _run(network, KernelOperators(), 2, _two_classes())
    assert (got.segments.labels == want.segments.labels).float().mean() > 0.995
    labels = {*want.segments.labels.unique().tolist()}
    assert 7 in labels and labels - {0, 7} == set(range(26001, 26001 + len(labels - {0, 7})))


@pytest.mark.long  # the whole network in the interpreter; its parts are tested in test/ops
@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs TRITON_INTERPRET=1, which is set where there is no GPU",
)
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("merge", MERGES)
def test_kernels_equal_the_form_for_a_cpu(network: UPSNet, merge: Merge) -> None:
    pytest.importorskip("triton")
    assert 19 * network.variant.rpn_top_n > LARGEST_LIST  # so that lists are walked along
    want = _run(network, Operators(), 1, merge=merge)
    with dispatch.interpreted():
        got = _run(network, KernelOperators(), 1, merge=merge)
    assert dispatch.failures() == {}
    _check(got, want)
