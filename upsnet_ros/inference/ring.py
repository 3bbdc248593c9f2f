"""Memory, streams and events of frames on their way to a device and back.

On a GPU, a frame goes this way. All waits but the last are the device's, not the host's.

1. `CudaSlot.upload`, in the thread that submits: the host copies the image to pinned memory; the
   upload stream copies it on to the slot's memory on the device. Event *uploaded*.
2. `CudaSlot.arrive`, in the thread that computes: the compute stream waits for *uploaded*. What is
   launched for the frame follows on that stream.
3. `CudaSlot.download`, in the same thread: event *computed* on the compute stream. The download
   stream waits for it, and copies each tensor of the answer to pinned memory. Event *downloaded*.
4. `CudaSlot.collect`, in the thread that answers: the host sleeps until *downloaded*.

A slot belongs to one frame from its submission until its answer is made. Whoever gives a slot back
has waited for the copies out of it and into it, so that its memory is reused without another wait.
For the same reason the slot holds the tensors of one stream that another reads, rather than have
them marked by ``record_stream``: let go afterwards, they are free at once, and the allocator has no
event to ask for, which it must not do while a graph is captured.

Once the slots have seen the largest frame they allocate nothing.
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

__all__ = ["Buffer", "CudaSlot", "HostSlot", "Ring"]

_HOST = torch.device("cpu")


class Buffer:
    """Memory that is used again for each frame, and grows with the largest of them.

    Args:
        device: Where it is.
        pinned: Whether it is host memory that a GPU copies from and to without the host's help.
    """

    def __init__(self, device: torch.device = _HOST, *, pinned: bool = False) -> None:
        self._device, self._pinned = device, pinned
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor in this memory, not set to anything; what was there before is lost."""
        size = math.prod(shape) * dtype.itemsize
        if len(self._bytes) < size:
            self._bytes = torch.empty(
                size, dtype=torch.uint8, device=self._device, pin_memory=self._pinned
            )
        return self._bytes[:size].view(dtype).view(*shape)

    def hold(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """Return a copy of an image, whatever its strides, in this memory on the host."""
        copy = self.take(image.shape, torch.uint8)
        np.copyto(copy.numpy(), image)
        return copy


class HostSlot:
    """The way of a frame where the host itself computes: only the image is copied.

    Attributes:
        pixels: The image, uint8 and of whatever shape, from `upload` to `clear`.
    """

    def __init__(self) -> None:
        self.pixels: Tensor | None = None
        self._input = Buffer()
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
        self._input = Buffer(pinned=True)
        self._image = Buffer(streams.device)
        self._outputs: list[Buffer] = []
        self._computed_here: list[Assembly] = []  # on the device
        self._assembly: Assembly | None = None
        # Whoever waits for these sleeps; by default it would spin on a core.
        self._uploaded, self._downloaded = (torch.cuda.Event(blocking=True) for _ in range(2))
        self._computed = torch.cuda.Event()

    def upload(self, image: npt.NDArray[np.uint8], stage: Stage) -> None:
        """Copy the image to pinned memory, and have it copied to the GPU from there."""
        held = self._input.hold(image)
        with torch.cuda.stream(self._streams.upload):
            with stage("upload"):
                pixels = self._image.take(held.shape, held.dtype)
                self.pixels = pixels.copy_(held, non_blocking=True)
            self._uploaded.record()

    def arrive(self) -> Tensor:
        """Let the compute stream wait for the image, and return it."""
        assert self.pixels is not None
        self._streams.compute.wait_event(self._uploaded)
        return self.pixels

    @torch.inference_mode()
    def download(self, assembly: Assembly, stage: Stage) -> None:
        """Have the answer copied to pinned memory once it is computed."""
        streams, used = self._streams, 0
        self._computed_here.append(assembly)
        self._computed.record(streams.compute)

        def fetch(x: Tensor) -> Tensor:
            nonlocal used
            if used == len(self._outputs):
                self._outputs.append(Buffer(pinned=True))
            host = self._outputs[used].take(x.shape, x.dtype)
            used += 1
            return host.copy_(x, non_blocking=True)

        with torch.cuda.stream(streams.download):
            streams.download.wait_event(self._computed)
            try:
                with stage("download"):
                    self._assembly = assembly.map(fetch)
            finally:
                self._downloaded.record()  # also if there was memory for half of it only

    def collect(self) -> Assembly:
        """Wait for the answer, and return a copy of it in ordinary memory."""
        assert self._assembly is not None
        self._downloaded.synchronize()
        return self._assembly.map(Tensor.clone)

    def settle(self) -> None:
        """Wait until nothing uses the slot's memory, of a frame that did not get to `collect`."""
        self._uploaded.synchronize()
        self._downloaded.synchronize()

    def clear(self) -> None:
        """Let go of the frame; the slot is as new but for its memory and events."""
        self.pixels = self._assembly = None
        self._computed_here.clear()


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
