"""The two ways through the network: the reference path image by image, and the batched path."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from upsnet_ros.inference.assemble import Assembly, FrameSettings, assemble, of_batch
from upsnet_ros.inference.cuda_graph import GraphCache
from upsnet_ros.inference.preprocess import Geometry, network_input, preprocess
from upsnet_ros.network.batched_operators import missing
from upsnet_ros.network.batched_path import BatchedPath, Sizes
from upsnet_ros.network.panoptic_head import Grid, HeadOptions
from upsnet_ros.network.upsnet import Stage, UPSNet, unmeasured
from upsnet_ros.network.variants import Merge
from upsnet_ros.ops import dispatch
from upsnet_ros.ops.camera_input import to_bgr
from upsnet_ros.ops.segments import ClassMap


class ReferenceFrames:
    """Computes frames with the reference, `UPSNet.forward`, one image at a time.

    Args:
        network: Network in evaluation mode, on its device.
        geometry: Returns the geometry for an image's height and width.
        bilinear: Whether the panoptic head works on the image's own pixels.
        public_ids: int64 (S,), public id of each semantic id of the result, on the device.
        class_map: Map from the network's classes to those of the result; None if they are the same.
    """

    def __init__(
        self,
        network: UPSNet,
        *,
        geometry: Callable[[int, int], Geometry],
        bilinear: bool,
        public_ids: Tensor,
        class_map: ClassMap | None = None,
    ) -> None:
        self._network = network
        self._geometry = geometry
        self._bilinear = bilinear
        self._public_ids = public_ids
        self._class_map = class_map
        self._dtype = network.rpn.cls_score.weight.dtype

    @torch.inference_mode()
    def compute(
        self, images: Sequence[Tensor], settings: FrameSettings, *, encoding: str, stage: Stage
    ) -> list[Assembly]:
        """Segment images on the device, one after the other; see `BatchedFrames.compute`."""
        with dispatch.references_only():
            return [self._one(to_bgr(image, encoding), settings, stage) for image in images]

    def _one(self, pixels: Tensor, settings: FrameSettings, stage: Stage) -> Assembly:
        height, width = pixels.shape[:2]
        geometry = self._geometry(height, width)
        with stage("preprocess"):
            data = preprocess(pixels, geometry, dtype=self._dtype)
        result = self._network(
            data,
            geometry.size,
            score_threshold=settings.score_threshold,
            grid=geometry.camera_grid() if self._bilinear else None,
            options=settings.head,
            stage=stage,
        )
        with stage("panoptic"):
            return assemble(
                result,
                geometry,
                variant=self._network.variant,
                public_ids=self._public_ids,
                semantic=settings.head.confidence,
                class_map=self._class_map,
            )


#: Number of combinations of image size, encoding and batch for which tables are kept.
_PATHS = 16


class _KernelsFailedError(Exception):
    """A kernel failed, and its substitute waits for the device, which a graph cannot contain."""


class BatchedFrames:
    """Computes frames of any size; those of one size as a batch.

    Args:
        network: Network in evaluation mode, on its device.
        geometry: Returns the geometry for an image's height and width.
        bilinear: Whether the panoptic head works on the image's own pixels.
        public_ids: int64 (S,), public id of each semantic id of the result, on the device.
        graphs: Captures and replays the launches of a batch; None launches them each time, which
            also happens if kernels do not run.
        class_map: Map from the network's classes to those of the result; None if they are the same.
        merge: How the heads' results are merged; by default the variant's method.
    """

    def __init__(
        self,
        network: UPSNet,
        *,
        geometry: Callable[[int, int], Geometry],
        bilinear: bool,
        public_ids: Tensor,
        graphs: GraphCache | None,
        class_map: ClassMap | None = None,
        merge: Merge | None = None,
    ) -> None:
        self._geometry = geometry
        self._new_path = partial(
            _Path,
            network,
            bilinear=bilinear,
            public_ids=public_ids,
            class_map=class_map,
            merge=merge,
        )
        self._graphs = graphs
        self._paths: OrderedDict[tuple[torch.Size, str], _Path] = OrderedDict()
        self._lock = threading.Lock()

    @torch.inference_mode()
    def compute(
        self, images: Sequence[Tensor], settings: FrameSettings, *, encoding: str, stage: Stage
    ) -> list[Assembly]:
        """Segment images of one size; on CUDA without waiting for it, after a warm-up.

        Args:
            images: uint8 (H, W), (H, W, 2) or (H, W, 3) each, by encoding, on the device.
            settings: Settings of these frames.
            encoding: One of `ops.camera_input.BYTES_PER_PIXEL`.
            stage: Context manager entered with the name of each stage; a graph is one stage.
        """
        pixels = images[0][None] if len(images) == 1 else torch.stack(tuple(images))
        # Filled by a kernel; a copy from the host would wait.
        score = torch.full((1,), settings.score_threshold, device=pixels.device)
        margin = torch.full((1,), settings.head.unknown_margin, device=pixels.device)
        wanted = replace(settings.head, unknown_margin=0.0)  # given by the tensor
        path = self._path(pixels.shape, encoding)
        if self._graphs is not None and not missing(pixels.device):
            try:
                with stage("graph"):
                    return self._replay(self._graphs, path, (pixels, score, margin), wanted)
            except _KernelsFailedError:
                pass  # `missing` is true for the next computation
        return path(pixels, score, margin, options=wanted, stage=stage)

    def _replay(
        self, graphs: GraphCache, path: _Path, inputs: tuple[Tensor, ...], wanted: HeadOptions
    ) -> list[Assembly]:
        # Includes maps that may be requested later, because capturing another graph would delay
        # frames. They cost some microseconds, and maps that are not wanted are not copied.
        options = replace(wanted, unknown_score=True, confidence=True)

        def launch(*inputs: Tensor) -> list[Assembly]:
            if missing(inputs[0].device):  # one failed in the first run
                raise _KernelsFailedError
            return path(*inputs, options=options)

        key = (inputs[0].shape, path.encoding, options)
        return graphs.run(key, launch, inputs, lambda assembly: assembly.with_maps_of(wanted))

    def _path(self, shape: torch.Size, encoding: str) -> _Path:
        key = (shape, encoding)
        with self._lock:
            path = self._paths.get(key)
            if path is None:
                # Ends with a copy from the host, which waits for this stream, so that other streams
                # can use the tables.
                batch, height, width = shape[:3]
                path = self._paths[key] = self._new_path(
                    geometry=self._geometry(height, width), batch=batch, encoding=encoding
                )
                if len(self._paths) > _PATHS:
                    self._paths.popitem(last=False)
            self._paths.move_to_end(key)
            return path


class _Path:
    """From camera bytes to assemblies, for one size of images, encoding and batch."""

    def __init__(
        self,
        network: UPSNet,
        *,
        geometry: Geometry,
        batch: int,
        encoding: str,
        bilinear: bool,
        public_ids: Tensor,
        class_map: ClassMap | None,
        merge: Merge | None,
    ) -> None:
        self._geometry, self.encoding = geometry, encoding
        self._dtype = network.rpn.cls_score.weight.dtype
        self._num_stuff = network.variant.num_stuff if class_map is None else class_map.num_stuff
        device = public_ids.device
        by_pillow = geometry.family == "panoptic_fpn"
        self._tables = geometry.resize_tables(device) if by_pillow else None
        if bilinear:
            grid = geometry.camera_grid()
            self._rows, self._columns = (torch.arange(n, device=device) for n in geometry.source)
        else:
            grid = Grid(geometry.size)
            self._rows, self._columns = geometry.source_rows_and_columns(device)
        self._static = BatchedPath(
            network,
            sizes=Sizes(batch=batch, padded=geometry.padded, size=geometry.size, grid=grid),
            rows=self._rows,
            columns=self._columns,
            public_ids=public_ids,
            class_map=class_map,
            merge=merge,
        )

    def __call__(
        self,
        pixels: Tensor,
        score_threshold: Tensor,
        unknown_margin: Tensor,
        *,
        options: HeadOptions,
        stage: Stage = unmeasured,
    ) -> list[Assembly]:
        with stage("preprocess"):
            data = network_input(
                pixels, self.encoding, self._geometry, dtype=self._dtype, tables=self._tables
            )
        result = self._static(
            data,
            score_threshold=score_threshold,
            unknown_margin=unknown_margin,
            options=options,
            stage=stage,
        )
        with stage("panoptic"):
            return of_batch(
                result,
                rows=self._rows,
                columns=self._columns,
                boxes=self._geometry.boxes_to_source(result.detections.boxes),
                num_stuff=self._num_stuff,
            )
