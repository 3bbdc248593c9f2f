"""Every Triton kernel at the sizes of a network, for `kernel_resources` and `kernel_times`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.network.panoptic_head import Grid
from upsnet_ros.ops import boxes as decode
from upsnet_ros.ops import boxes as nms
from upsnet_ros.ops import camera_input, conv_relu, deform_conv, heuristic_merge, panoptic, segments
from upsnet_ros.ops import conv_relu as relu_pool
from upsnet_ros.ops import mask_removal as hidden_masks
from upsnet_ros.ops import pyramid as merge
from upsnet_ros.ops import pyramid as sum_levels
from upsnet_ros.ops import roi_align as fpn_roi_align
from upsnet_ros.ops.boxes import CONTINUOUS
from upsnet_ros.ops.panoptic import UNKNOWN, UNMAPPED, MapOptions
from upsnet_ros.ops.triton import boxes as decode_triton
from upsnet_ros.ops.triton import boxes as nms_triton
from upsnet_ros.ops.triton import camera_input as camera_triton
from upsnet_ros.ops.triton import conv_relu as conv_relu_triton
from upsnet_ros.ops.triton import conv_relu as relu_pool_triton
from upsnet_ros.ops.triton import deform_conv as deform_conv_triton
from upsnet_ros.ops.triton import heuristic_merge as heuristic_merge_triton
from upsnet_ros.ops.triton import mask_removal as hidden_masks_triton
from upsnet_ros.ops.triton import panoptic as panoptic_triton
from upsnet_ros.ops.triton import pyramid as merge_triton
from upsnet_ros.ops.triton import pyramid as sum_levels_triton
from upsnet_ros.ops.triton import roi_align as fpn_roi_align_triton
from upsnet_ros.ops.triton import segments as segments_triton

#: Of cityscapes: stuff and all classes.
STUFF, CLASSES = 11, 19
BINS, STRIDES = 28, (4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One job of a kernel: `kernel` launches it; `reference` computes the same in plain torch."""

    name: str
    kernel: Callable[[], Any]
    reference: Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a frame has; by default that of cityscapes-r50."""

    image: tuple[int, int] = (1024, 2048)
    proposals: int = 1000
    instances: int = 100
    channels: int = 256


class Inputs:
    """Random inputs with shapes of their own kind: boxes that crowd, regions that are large.

    Args:
        device: Where they are; on "meta" they hold nothing.
        dtype: Of features and masks.
        batch: Frames.
        sizes: Of a frame.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, *, batch: int, sizes: Sizes
    ) -> None:
        self.device, self.dtype, self.batch, self.sizes = device, dtype, batch, sizes

    def bytes(self, *shape: int) -> Tensor:
        """Return camera bytes (B, *shape)."""
        return torch.randint(0, 256, (self.batch, *shape), dtype=torch.uint8, device=self.device)

    def feature(self, channels: int, stride: int) -> Tensor:
        """Return a channels-last feature (B, C, H / stride, W / stride)."""
        height, width = (side // stride for side in self.sizes.image)
        shape = (self.batch, height, width, channels)
        return torch.randn(shape, device=self.device, dtype=self.dtype).permute(0, 3, 1, 2)

    def boxes(self, lists: int, count: int) -> Tensor:
        """Return boxes (lists, count, 4) of 16 to 300 pixels, inside the image."""
        height, width = self.sizes.image
        limit = torch.tensor([width - 1.0, height - 1.0], device=self.device)
        extent = 16 * 19 ** torch.rand(lists, count, 2, device=self.device)
        extent = torch.minimum(extent, limit)
        corner = torch.rand(lists, count, 2, device=self.device) * (limit - extent)
        return torch.cat((corner, corner + extent), dim=2)

    def numbers(self, lists: int, count: int) -> Tensor:
        """Return full lists' numbers (lists,)."""
        return torch.full((lists,), count, dtype=torch.int32, device=self.device)

    def detections(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return boxes, classes, mask logits and numbers of detections."""
        count = self.sizes.instances
        classes = torch.arange(count, device=self.device) % (CLASSES - STUFF) + 1
        masks = torch.randn(self.batch, count, BINS, BINS, device=self.device, dtype=self.dtype)
        return (
            self.boxes(self.batch, count),
            classes.expand(self.batch, -1),
            masks + 1,
            self.numbers(self.batch, count),
        )

    def semantic(self) -> Tensor:
        """Return semantic logits (B, S, H / 4, W / 4) as the network gives them."""
        height, width = (side // STRIDES[0] for side in self.sizes.image)
        coarse = torch.randn(self.batch, CLASSES, height // 16 + 1, width // 16 + 1)
        fine = F.interpolate(coarse.to(self.device) * 4, size=(height, width), mode="bilinear")
        return fine.contiguous(memory_format=torch.channels_last)

    def ids(self, lowest: int, stop: int) -> Tensor:
        """Return a map int16 (B, H, W) of squares."""
        side = 32
        height, width = (-(-length // side) for length in self.sizes.image)
        shape = (self.batch, height, width)
        coarse = torch.randint(lowest, stop, shape, dtype=torch.int16, device=self.device)
        fine = coarse.repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
        return fine[:, : self.sizes.image[0], : self.sizes.image[1]]


def cases(
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    batch: int = 1,
    sizes: Sizes = Sizes(),
) -> list[Case]:
    """Return what every kernel has to do for ``batch`` frames, and its rarer variants."""
    own = Inputs(torch.device(device), dtype, batch=batch, sizes=sizes)
    return [
        *_camera(own),
        *_layers(own),
        *_decoding(own),
        *_suppression(own),
        *_pooling(own),
        *_deformable(own),
        *_masks_and_maps(own),
    ]


def _case(name: str, launch: Any, reference: Any, *args: Any, **options: Any) -> Case:
    return Case(
        name=name,
        kernel=partial(launch, *args, **options),
        reference=partial(reference, *args, **options),
    )


def _camera(own: Inputs) -> list[Case]:
    height, width = own.sizes.image
    made = []
    for encoding, scale, last in (("bgr8", 1.0, 3), ("yuyv", 0.5, 2), ("bayer_rggb8", 0.5, 1)):
        size = (round(height * scale), round(width * scale))
        shape = (height, width) if last == 1 else (height, width, last)
        made.append(
            _case(
                f"camera, {encoding}" + ("" if scale == 1 else ", resized"),
                camera_triton.camera_input,
                camera_input.camera_input_reference,
                own.bytes(*shape),
                encoding,
                scale=scale,
                size=size,
                padded=size,
                means=(103.0, 116.0, 123.0),
                dtype=own.dtype,
            )
        )
    images = own.bytes(height, width, 3)
    tables = camera_input.ResizeTables.of(
        (height, width), (height * 3 // 4, width * 3 // 4), own.device
    )
    forms = (camera_triton.resize_line, camera_input.resize_line_reference)
    made += [
        _case(f"resize_bytes, {name}", *forms, images, dim, line)
        for name, dim, line in (("columns", 2, tables.columns), ("rows", 1, tables.rows))
    ]
    return made


def _layers(own: Inputs) -> list[Case]:
    channels = own.sizes.channels
    fine, coarse = own.feature(channels, 4), own.feature(channels, 8)
    first = own.feature(channels // 4, 2)
    scores = [own.feature(CLASSES, stride) for stride in STRIDES]
    merging = (merge_triton.add_coarse, merge.add_coarse_reference)
    pooling = (relu_pool_triton.relu_pool, relu_pool.relu_pool_reference)
    clamping = (conv_relu_triton.bias_relu, conv_relu.bias_relu_reference)
    adding = (sum_levels_triton.sum_levels, sum_levels.sum_levels_reference)
    return [
        _case("relu_pool", *pooling, first, first[0, :, 0, 0].clone()),
        _case("bias_relu", *clamping, fine, fine[0, :, 0, 0].clone()),
        _case("merge", *merging, fine, coarse, fine[0, :, 0, 0].clone()),
        _case("sum_levels", *adding, scores),
    ]


def _decoding(own: Inputs) -> list[Case]:
    forms = (decode_triton.decode_at, decode.decode_at_reference)
    count, size, things = own.sizes.proposals, own.sizes.image, CLASSES - STUFF + 1
    anchors = sum(3 * (size[0] // stride) * (size[1] // stride) for stride in (*STRIDES, 64))
    made = []
    for name, lists, number, each, picked in (
        ("proposals", 1, anchors, 1, 5 * count),
        ("detections", own.batch, count, things, count),
    ):
        rows = number * each
        deltas = torch.randn(own.batch, rows, 4, device=own.device, dtype=own.dtype)
        place = torch.randint(rows, (own.batch, picked), device=own.device)
        tensors = (own.boxes(lists, number), deltas, place)
        weights = (10.0, 10.0, 5.0, 5.0)
        made.append(_case(f"decode, {name}", *forms, *tensors, weights=weights, size=size))
    made.append(
        _case(
            "decode, continuous boxes",
            *forms,
            *tensors,
            weights=weights,
            size=size,
            edge=CONTINUOUS,
        )
    )
    return made


def _suppression(own: Inputs) -> list[Case]:
    forms = (nms_triton.batched_nms, nms.batched_nms_reference)
    count, lists = own.sizes.proposals, 5 * own.batch
    kinds = torch.arange(count, device=own.device).expand(own.batch, -1) % (CLASSES - STUFF)
    levels = (own.boxes(lists, count), own.numbers(lists, count), 0.7)
    candidates = (own.boxes(own.batch, count), own.numbers(own.batch, count), 0.5)
    many = nms.LARGEST_LIST + 76
    pairs = (own.boxes(own.batch, many), own.numbers(own.batch, many), 0.5)
    classes = torch.arange(many, device=own.device).expand(own.batch, -1) % (CLASSES - STUFF)
    return [
        _case("nms, five levels", *forms, *levels, limit=count),
        _case("nms, classes apart", *forms, *candidates, limit=count, groups=kinds),
        _case(
            "nms, long lists of continuous boxes", *forms, *pairs, limit=own.sizes.instances,
            groups=classes, edge=CONTINUOUS,
        ),
    ]  # fmt: skip


def _pooling(own: Inputs) -> list[Case]:
    pyramid = [own.feature(own.sizes.channels, stride) for stride in STRIDES]
    kinds = {"": {}, ", continuous boxes": {"edge": CONTINUOUS}}
    return [
        _case(
            f"fpn_roi_align, {bins}x{bins}{name}",
            fpn_roi_align_triton.fpn_roi_align,
            fpn_roi_align.fpn_roi_align_reference,
            pyramid,
            own.boxes(own.batch, count),
            bins,
            counts=own.numbers(own.batch, count),
            **options,
        )
        for name, options in kinds.items()
        for count, bins in ((own.sizes.proposals, 7), (own.sizes.instances, 14))
    ]


def _deformable(own: Inputs) -> list[Case]:
    made = []
    outputs = own.sizes.channels // 2
    for channels in (own.sizes.channels, outputs):
        weight = torch.randn(outputs, channels, 3, 3, device=own.device, dtype=own.dtype) / 48
        tensors = (own.feature(channels, 4), own.feature(18, 4), weight, weight[:, 0, 0, 0])
        reference = partial(deform_conv.deform_conv2d_reference, *tensors, relu=True)
        options = {"relu": True, "packed": deform_conv_triton.pack_weight(weight)}
        forms = {"": None, ", pipelined": deform_conv_triton.FORMS[1]}
        for name, form in forms.items():
            if form is None or channels % form.block[2] == 0:
                kernel = partial(deform_conv_triton.deform_conv2d, *tensors, **options, form=form)
                name = f"deform_conv, {channels} to {outputs} channels{name}"
                made.append(Case(name=name, kernel=kernel, reference=reference))
    return made


def _masks_and_maps(own: Inputs) -> list[Case]:
    size, detections = own.sizes.image, own.detections()
    margin = torch.zeros(1, device=own.device)
    head = (panoptic_triton.panoptic_maps, panoptic.panoptic_maps_reference)
    inputs = (own.semantic(), *detections, margin)
    cells = (size[0] // STRIDES[0], size[1] // STRIDES[0])
    once = Grid(size).tables(cells, own.device)
    near = (round(0.9 * size[0]), round(0.9 * size[1]))
    twice = Grid(size, 0.9, via=near).tables(cells, own.device)
    one_class = detections[1].clamp(max=1)
    one_channel = (inputs[0][:, : STUFF + 1], detections[0], one_class, *inputs[3:])
    extra = MapOptions(STUFF, unknown_score=True, confidence=True, max_logit=True)
    table = (segments_triton.segment_table, segments.segment_table_reference)
    maps = (
        own.ids(-1, STUFF + own.sizes.instances),
        own.ids(0, CLASSES),
        detections[1],
        torch.arange(CLASSES, device=own.device),
        *(torch.arange(side, device=own.device) for side in size),
    )
    boxes, _, masks, numbers = detections
    places = torch.arange(own.sizes.instances, dtype=torch.int32, device=own.device)
    merged = (
        heuristic_merge_triton.merged_maps,
        heuristic_merge.merged_maps_reference,
        inputs[0],
        boxes,
        masks,
        places.expand(own.batch, -1),
        numbers,
        margin,
        twice,
    )
    rule = {"num_stuff": STUFF, "stuff_area_limit": 2048}
    reverse = torch.arange(CLASSES - 1, -1, -1, device=own.device, dtype=torch.int16)
    regions = torch.arange(STUFF + own.sizes.instances + 1, dtype=torch.int16, device=own.device)
    regions = torch.where(regions % 5 == 0, UNMAPPED, regions).expand(own.batch, -1).clone()
    regions[:, -1] = UNKNOWN
    relabelled = {"relabelling": segments.Relabelling(regions, reverse), "majority": False}
    return [
        _case(
            "hidden_masks",
            hidden_masks_triton.accept_masks,
            hidden_masks.accept_masks_reference,
            *detections,
            size=size,
            threshold=0.3,
        ),
        _case(
            "hidden_masks, continuous boxes",
            hidden_masks_triton.accept_masks,
            hidden_masks.accept_masks_reference,
            *detections,
            size=size,
            threshold=0.5,
            edge=CONTINUOUS,
        ),
        _case("panoptic", *head, *inputs, once, options=MapOptions(STUFF)),
        _case("panoptic, all maps", *head, *inputs, once, options=extra),
        _case("panoptic, one channel, twice", *head, *one_channel, twice, options=extra),
        _case("heuristic_merge", *merged, options=MapOptions(STUFF)),
        _case("heuristic_merge, all maps", *merged, options=extra),
        _case("segments", *table, *maps, **rule),
        _case("segments, semantic map", *table, *maps, **rule, want_semantic=True),
        _case("segments, label map", *table, *maps, **rule, want_semantic=True, **relabelled),
    ]
