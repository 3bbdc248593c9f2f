"""The default path of frames: in batches and static shapes, on CUDA as one graph for each size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from upsnet_ros.inference.assemble import Assembly, of_batch
from upsnet_ros.inference.frame_settings import FrameSettings
from upsnet_ros.inference.graphs import GraphCache
from upsnet_ros.inference.preprocess import Geometry, network_input
from upsnet_ros.network.panoptic_head import Grid, HeadOptions
from upsnet_ros.network.static.path import Sizes, StaticPath
from upsnet_ros.network.upsnet import Stage, UPSNet, unmeasured

#: Sizes of images, encodings and batches for which tables are kept.
_PATHS = 16


class StaticFrames:
    """Computes frames of any size, those of one size together.

    Args:
        network: In evaluation mode, on its device.
        geometry: Of an image's height and width.
        bilinear: Whether the panoptic head works on the image's own pixels.
        public_ids: int64 (S,), public id of each semantic id, on the device.
        graphs: What captures and replays what is launched for a batch; None launches it each time.
    """

    def __init__(
        self,
        network: UPSNet,
        *,
        geometry: Callable[[int, int], Geometry],
        bilinear: bool,
        public_ids: Tensor,
        graphs: GraphCache | None,
    ) -> None:
        self._network = network
        self._geometry = geometry
        self._bilinear = bilinear
        self._public_ids = public_ids
        self._graphs = graphs
        self._paths: OrderedDict[tuple[torch.Size, str], _Path] = OrderedDict()
        self._lock = threading.Lock()

    @torch.inference_mode()
    def compute(
        self, images: Sequence[Tensor], settings: FrameSettings, *, encoding: str, stage: Stage
    ) -> list[Assembly]:
        """Segment images of one size; on CUDA without a wait for it, once it is warm.

        Args:
            images: uint8 (H, W), (H, W, 2) or (H, W, 3) each, by encoding, on the device.
            settings: By which they are segmented.
            encoding: One of `kernels.camera.BYTES_PER_PIXEL`.
            stage: Entered with the name of each stage while it runs; a graph is one stage.
        """
        pixels = images[0][None] if len(images) == 1 else torch.stack(tuple(images))
        # Filled by a launch each; a copy from the host would be a wait.
        score = torch.full((1,), settings.score_threshold, device=pixels.device)
        margin = torch.full((1,), settings.head.unknown_margin, device=pixels.device)
        options = replace(settings.head, unknown_margin=0.0)  # given by the tensor
        path = self._path(pixels.shape, encoding)
        if self._graphs is None:
            return path(pixels, score, margin, options=options, stage=stage)

        def launch(*inputs: Tensor) -> list[Assembly]:
            return path(*inputs, options=options)

        with stage("graph"):
            key = (pixels.shape, encoding, options)
            return self._graphs.run(key, launch, (pixels, score, margin))

    def _path(self, shape: torch.Size, encoding: str) -> _Path:
        key = (shape, encoding)
        with self._lock:
            path = self._paths.get(key)
            if path is None:
                # Ends with a copy from the host, which waits for this stream: the tables are there
                # for whatever streams others use them on.
                path = self._paths[key] = self._new_path(shape, encoding)
                if len(self._paths) > _PATHS:
                    self._paths.popitem(last=False)
            self._paths.move_to_end(key)
            return path

    def _new_path(self, shape: torch.Size, encoding: str) -> _Path:
        return _Path(
            self._network,
            geometry=self._geometry(shape[1], shape[2]),
            batch=shape[0],
            encoding=encoding,
            bilinear=self._bilinear,
            public_ids=self._public_ids,
        )


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
    ) -> None:
        self._geometry, self._encoding = geometry, encoding
        self._dtype = network.rpn.cls_score.weight.dtype
        self._num_stuff = network.variant.num_stuff
        device = public_ids.device
        if bilinear:
            grid = Grid(geometry.source, geometry.scale)
            self._rows, self._columns = (torch.arange(n, device=device) for n in geometry.source)
        else:
            grid = Grid(geometry.size)
            self._rows, self._columns = geometry.source_rows_and_columns(device)
        self._static = StaticPath(
            network,
            sizes=Sizes(batch=batch, padded=geometry.padded, size=geometry.size, grid=grid),
            rows=self._rows,
            columns=self._columns,
            public_ids=public_ids,
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
            data = network_input(pixels, self._encoding, self._geometry, dtype=self._dtype)
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
                scale=self._geometry.scale,
                num_stuff=self._num_stuff,
            )
