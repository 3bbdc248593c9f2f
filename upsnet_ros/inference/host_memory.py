"""Host memory of frames in flight: pinned slots, and result memory that is recycled.

The result of a large image has several megabytes. A copy into new memory spends most of its time on
page faults, 1400 a frame, and takes 7 to 13 ms; a copy into memory that was used before takes 1 ms
(measured on a CPU).

The way of a frame on a GPU; only the last step waits on the host:

1. `CudaSlot.upload`, in the thread that submits: the host copies the image to pinned memory; the
   upload stream copies it to the slot's memory on the device. Event *uploaded*.
2. `CudaSlot.arrive`, in the thread that computes: the compute stream waits for *uploaded*. The
   frame's kernels follow on that stream.
3. `CudaSlot.download`, in the same thread: event *computed* on the compute stream. The download
   stream waits for it, and copies each tensor of the result to pinned memory. Event *downloaded*.
4. `CudaSlot.collect`, in the thread that returns results: the host sleeps until *downloaded*, and
   copies the result to recycled memory: see `RecycledMemory`.

A slot belongs to one frame from its submission until its result is complete. A slot is released
after its copies have finished, so its memory is reused without waiting. For the same reason the
slot keeps the tensors of one stream that another stream reads, instead of marking them by
``record_stream``: they are free as soon as they are released, and the allocator need not query an
event, which is not allowed while a graph is captured.

After the largest frame, slots allocate nothing.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.network.upsnet import Stage
from upsnet_ros.ops.dispatch import switched_on

#: If set to 0, each result has its own memory, which is returned to the system.
ENVIRONMENT = "UPSNET_RECYCLED_MEMORY"

#: Smaller arrays are allocated on the heap, whose pages are in use already.
_LEAST_BYTES = 64 * 1024
#: A block is used for arrays that fill at least this fraction of it.
_LEAST_SHARE = 0.5


class RecycledMemory:
    """Copies results into blocks of memory that are recycled when the last reference is dropped.

    The arrays of a result own their memory, like any other array: while the array or anything that
    shares its memory (a slice, a view, a torch tensor, a DLPack capsule) lives, its block is not
    reused. If no block is idle, a new one is allocated; nothing waits.

    Blocks are returned in the thread that drops the last reference, even within this class's own
    code if the garbage collector runs. So there are no locks: a deque's methods are atomic.

    Args:
        limit: Maximum number of idle blocks for each kind of array; further ones are freed, the
            longest idle first.
    """

    def __init__(self, limit: int) -> None:
        # By array, so that keeping one array of a result does not keep all of them.
        self._idle: dict[str, deque[bytearray]] = {
            field.name: deque(maxlen=limit) for field in fields(Assembly)
        }
        self._recycles = switched_on(ENVIRONMENT, default=True)

    def hold(self, assembly: Assembly) -> Assembly:
        """Return a copy of a result in this memory, from any device; waits for it."""
        copies: dict[str, Tensor | None] = {}
        for name, idle in self._idle.items():
            x: Tensor | None = getattr(assembly, name)
            copies[name] = None if x is None else self._copy(x, idle)
        return Assembly(**copies)  # type: ignore[arg-type]

    def idle_blocks(self) -> dict[str, int]:
        """Return the number of idle blocks for each kind of array."""
        return {name: len(idle) for name, idle in self._idle.items()}

    def _copy(self, x: Tensor, idle: deque[bytearray]) -> Tensor:
        size = x.numel() * x.element_size()
        if size < _LEAST_BYTES or not self._recycles:
            return torch.empty(x.shape, dtype=x.dtype).copy_(x)
        block = _block(idle, size)
        # An array that does not own its memory is the base of all views of it, and of their views.
        base = np.frombuffer(block, np.uint8, count=size)
        # Not needed when the interpreter ends.
        weakref.finalize(base, idle.append, block).atexit = False
        return torch.from_numpy(base).view(x.dtype).view(x.shape).copy_(x)


def _block(idle: deque[bytearray], size: int) -> bytearray:
    """Return an idle block of that size or slightly more, or a new one."""
    for _ in range(len(idle)):
        try:
            block = idle.popleft()
        except IndexError:  # another thread took it
            break
        if _LEAST_SHARE * len(block) <= size <= len(block):
            return block
        idle.append(block)  # for images of another size
    return bytearray(size)


_HOST = torch.device("cpu")


class Buffer:
    """Memory that is reused for each frame, and grows to the largest of them.

    Args:
        device: Device of the memory.
        pinned_for: A GPU that copies from and to this memory asynchronously; the memory is then
            pinned host memory.
    """

    def __init__(
        self, device: torch.device = _HOST, *, pinned_for: torch.device | None = None
    ) -> None:
        self._device, self._pinned_for = device, pinned_for
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor in this memory, which overwrites earlier ones."""
        size = math.prod(shape) * dtype.itemsize
        if len(self._bytes) < size:
            self._bytes = self._allocate(size)
        return self._bytes[:size].view(dtype).view(*shape)

    def _allocate(self, size: int) -> Tensor:
        if self._pinned_for is None:
            return torch.empty(size, dtype=torch.uint8, device=self._device)
        # Pinning uses the context of the thread's current GPU, and would create one there.
        with torch.cuda.device(self._pinned_for):
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def hold(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """Return a copy of an image with any strides in this memory, on the host."""
        copy = self.empty(image.shape, torch.uint8)
        np.copyto(copy.numpy(), image)
        return copy


class HostSlot:
    """A frame in flight if the host computes: only the image is copied.

    Attributes:
        pixels: The image, uint8, from `upload` to `clear`.
    """

    def __init__(self) -> None:
        self.pixels: Tensor | None = None
        self._input = Buffer()
        self._assembly: Assembly | None = None

    def upload(self, image: npt.NDArray[np.uint8], stage: Stage) -> None:
        """Copy the image, which may change afterwards."""
        with stage("upload"):
            self.pixels = self._input.hold(image)

    def arrive(self) -> Tensor:
        """Return the image for the computation."""
        assert self.pixels is not None
        return self.pixels

    def download(self, assembly: Assembly, stage: Stage) -> None:
        """Store the result, which is on the host already."""
        with stage("download"):
            self._assembly = assembly

    def collect(self) -> Assembly:
        """Return the result, in memory that is not the slot's."""
        assert self._assembly is not None
        return self._assembly

    def settle(self) -> None:
        """Wait until nothing uses the slot's memory, for a frame that did not reach `collect`."""

    def clear(self) -> None:
        """Release the frame; the slot can be reused."""
        self.pixels = self._assembly = None


class _Streams:
    """Streams for upload, computation and download, which follow all earlier launches."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.upload, self.compute, self.download = (torch.cuda.Stream(device) for _ in range(3))
        # The weights may still be copied on the stream that created the predictor.
        self.compute.wait_stream(torch.cuda.current_stream(device))


class CudaSlot:
    """A frame in flight to a GPU and back, through pinned memory and on three streams.

    Only `collect` and `settle` wait for the GPU. The methods are those of `HostSlot`.
    """

    def __init__(self, streams: _Streams, memory: RecycledMemory) -> None:
        self.pixels: Tensor | None = None
        self._streams, self._memory = streams, memory
        self._input = Buffer(pinned_for=streams.device)
        self._image = Buffer(streams.device)
        self._outputs: list[Buffer] = []
        self._computed_here: list[Assembly] = []  # on the device
        self._assembly: Assembly | None = None
        # Waiting for these sleeps; by default it would spin.
        self._uploaded, self._downloaded = (torch.cuda.Event(blocking=True) for _ in range(2))
        self._computed = torch.cuda.Event()

    def upload(self, image: npt.NDArray[np.uint8], stage: Stage) -> None:
        """Copy the image to pinned memory, and start its copy to the GPU."""
        held = self._input.hold(image)
        with torch.cuda.stream(self._streams.upload):
            with stage("upload"):
                pixels = self._image.empty(held.shape, held.dtype)
                self.pixels = pixels.copy_(held, non_blocking=True)
            self._uploaded.record()

    def arrive(self) -> Tensor:
        """Let the compute stream wait for the image, and return it."""
        assert self.pixels is not None
        self._streams.compute.wait_event(self._uploaded)
        return self.pixels

    @torch.inference_mode()
    def download(self, assembly: Assembly, stage: Stage) -> None:
        """Start the copy of the result to pinned memory, which waits until it is computed."""
        streams, used = self._streams, 0
        self._computed_here.append(assembly)
        self._computed.record(streams.compute)

        def fetch(x: Tensor) -> Tensor:
            nonlocal used
            if used == len(self._outputs):
                self._outputs.append(Buffer(pinned_for=streams.device))
            host = self._outputs[used].empty(x.shape, x.dtype)
            used += 1
            return host.copy_(x, non_blocking=True)

        with torch.cuda.stream(streams.download):
            streams.download.wait_event(self._computed)
            try:
                with stage("download"):
                    self._assembly = assembly.map(fetch)
            finally:
                self._downloaded.record()  # also if memory ran out halfway

    def collect(self) -> Assembly:
        """Wait for the result, and return a copy that its holder owns."""
        assert self._assembly is not None
        self._downloaded.synchronize()
        return self._memory.hold(self._assembly)

    def settle(self) -> None:
        """Wait until nothing uses the slot's memory, for a frame that did not reach `collect`."""
        self._uploaded.synchronize()
        self._downloaded.synchronize()

    def clear(self) -> None:
        """Release the frame; the slot keeps its memory and events."""
        self.pixels = self._assembly = None
        self._computed_here.clear()


class Ring:
    """The slots of all frames that may be in flight on a device.

    Args:
        device: Device that computes frames.
        size: Number of slots.
    """

    def __init__(self, *, device: torch.device, size: int) -> None:
        self._streams = _Streams(device) if device.type == "cuda" else None
        # Two more than are in flight: a result that is being read, and the previous one.
        memory = RecycledMemory(limit=size + 2)
        self.slots: list[HostSlot | CudaSlot] = [
            HostSlot() if self._streams is None else CudaSlot(self._streams, memory)
            for _ in range(size)
        ]

    def computing(self) -> AbstractContextManager[object]:
        """Return a context in which what is launched runs on the compute stream."""
        return nullcontext() if self._streams is None else torch.cuda.stream(self._streams.compute)
