"""Host memory, streams and events of frames on their way to a device and back.

A slot belongs to one frame from its submission until its answer is made. Whoever gives a slot back
has waited for the copies out of it and into it, so that its memory is reused without another wait.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.network.upsnet import Stage

__all__ = ["CudaSlot", "HostBuffer", "HostSlot", "Ring"]


class HostBuffer:
    """Memory on the host that is used again for each frame, and grows with the largest of them.

    Args:
        pinned: Whether a GPU shall copy from and to it without the host's help.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor in this memory, not set to anything; what was there before is lost."""
        size = math.prod(shape) * dtype.itemsize
        if len(self._bytes) < size:
            self._bytes = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
        return self._bytes[:size].view(dtype).view(*shape)

    def hold(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """Return a copy of an image, whatever its strides, in this memory."""
        copy = self.take(image.shape, torch.uint8)
        np.copyto(copy.numpy(), image)
        return copy


class HostSlot:
    """The way of a frame where the host itself computes: only the image is copied.

    Attributes:
        pixels: The image, uint8 (H, W, 3), from `upload` to `clear`.
    """

    def __init__(self) -> None:
        self.pixels: Tensor | None = None
        self._input = HostBuffer(pinned=False)
        self._assembly: Assembly | None = None

    def upload(self, image: npt.NDArray[np.uint8], stage: Stage) -> None:
        """Take the image, which may change afterwards."""
        with stage("upload"):
            self.pixels = self._input.hold(image)

    def arrive(self) -> Tensor:
        """Return the image for those who compute with it."""
        assert self.pixels is not None
        return self.pixels

    def download(self, assembly: Assembly, stage: Stage) -> None:
        """Take what was computed; it is here already."""
        with stage("download"):
            self._assembly = assembly

    def collect(self) -> Assembly:
        """Return what was computed, in memory that is not the slot's."""
        assert self._assembly is not None
        return self._assembly

    def settle(self) -> None:
        """Wait until nothing uses the slot's memory, of a frame that did not get to `collect`."""

    def clear(self) -> None:
        """Let go of the frame; the slot is as new."""
        self.pixels = self._assembly = None


class _Streams:
    """One stream for each direction and one to compute on, all after what was launched so far."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.upload, self.compute, self.download = (torch.cuda.Stream(device) for _ in range(3))
        # The weights may still be on their way, by the stream of whoever made the predictor.
        self.compute.wait_stream(torch.cuda.current_stream(device))


class CudaSlot:
    """The way of a frame to a GPU and back, through pinned memory and by three streams.

    No method waits for the GPU but `collect` and `settle`. Methods as in `HostSlot`.
    """

    def __init__(self, streams: _Streams) -> None:
        self.pixels: Tensor | None = None
        self._streams = streams
        self._input = HostBuffer(pinned=True)
        self._outputs: list[HostBuffer] = []
        self._assembly: Assembly | None = None
        self._uploaded = torch.cuda.Event()
        self._computed = torch.cuda.Event()
        # Whoever waits for it sleeps; by default it would spin on a core.
        self._downloaded = torch.cuda.Event(blocking=True)

    def upload(self, image: npt.NDArray[np.uint8], stage: Stage) -> None:
        """Copy the image to pinned memory, and have it copied to the GPU from there."""
        held = self._input.hold(image)
        with torch.cuda.stream(self._streams.upload):
            with stage("upload"):
                self.pixels = held.to(self._streams.device, non_blocking=True)
            self._uploaded.record()

    def arrive(self) -> Tensor:
        """Let the compute stream wait for the image, and return it."""
        assert self.pixels is not None
        self._streams.compute.wait_event(self._uploaded)
        self.pixels.record_stream(self._streams.compute)  # allocated on the upload stream
        return self.pixels

    @torch.inference_mode()
    def download(self, assembly: Assembly, stage: Stage) -> None:
        """Have the answer copied to pinned memory once it is computed."""
        streams, used = self._streams, 0
        self._computed.record(streams.compute)

        def fetch(x: Tensor) -> Tensor:
            nonlocal used
            if used == len(self._outputs):
                self._outputs.append(HostBuffer(pinned=True))
            host = self._outputs[used].take(x.shape, x.dtype)
            used += 1
            x.record_stream(streams.download)  # allocated on the compute stream
            return host.copy_(x, non_blocking=True)

        with torch.cuda.stream(streams.download):
            streams.download.wait_event(self._computed)
            with stage("download"):
                self._assembly = assembly.map(fetch)
            self._downloaded.record()

    def collect(self) -> Assembly:
        """Wait for the answer, and return a copy of it in ordinary memory."""
        assert self._assembly is not None
        self._downloaded.synchronize()
        return self._assembly.map(Tensor.clone)

    def settle(self) -> None:
        """Wait until nothing uses the slot's memory, of a frame that did not get to `collect`."""
        self._streams.upload.synchronize()
        self._streams.download.synchronize()

    def clear(self) -> None:
        """Let go of the frame; the slot is as new but for its memory and events."""
        self.pixels = self._assembly = None


class Ring:
    """The slots of all frames that may be in flight on a device.

    Args:
        device: Where frames are computed.
        size: Number of slots.
    """

    def __init__(self, *, device: torch.device, size: int) -> None:
        self._streams = _Streams(device) if device.type == "cuda" else None
        self.slots: list[HostSlot | CudaSlot] = [
            HostSlot() if self._streams is None else CudaSlot(self._streams) for _ in range(size)
        ]

    def computing(self) -> AbstractContextManager[object]:
        """Return a context in which what is launched runs on the compute stream."""
        return nullcontext() if self._streams is None else torch.cuda.stream(self._streams.compute)
