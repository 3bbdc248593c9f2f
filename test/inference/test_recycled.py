"""Memory of frames comes back when nobody holds them any more, and not before; without a GPU."""

from __future__ import annotations

import gc
import hashlib
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from upsnet_ros.datasets.taxonomy import get_taxonomy
from upsnet_ros.inference import host_memory as recycled
from upsnet_ros.inference import host_memory as ring
from upsnet_ros.inference.assemble import Assembly, FrameSettings, to_frame
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.host_memory import RecycledMemory
from upsnet_ros.inference.pipeline import Pipeline, in_order
from upsnet_ros.network.panoptic_head import HeadOptions
from upsnet_ros.node.worker import FrameWorker
from upsnet_ros.tracking.tracker import Tracker

#: Stuff classes of Cityscapes, and the semantic id of its cars.
STUFF, CAR = 11, 13
HELD, PASSING = 50, 500
LONG = 60


@pytest.fixture(autouse=True)
def small_arrays_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are small here, to be quick."""
    monkeypatch.setattr(recycled, "_LEAST_BYTES", 5000)


def assembly_of(seed: int, size: tuple[int, int] = (64, 128)) -> Assembly:
    """A result that differs in every map from those of other seeds, with one car."""
    height, width = size
    pattern = torch.arange(height * width, dtype=torch.int32).view(size) * (seed + 1)
    labels = pattern % 23
    labels[10:60, 20:90] = 26001
    table = torch.zeros(STUFF + 1, 7, dtype=torch.int32)
    table[STUFF] = torch.tensor([26001, CAR, 3500, 20, 10, 89, 59])
    byte = (pattern % 251).to(torch.uint8)
    return Assembly(
        labels=labels,
        unknown=pattern % 7 == 0,
        table=table,
        details=torch.ones(STUFF + 1, 5),
        finite=torch.tensor([True]),
        semantic=byte,
        unknown_score=byte + 1,
        confidence=byte + 2,
        max_logit=pattern / 3,
    )


def frame_of(assembly: Assembly) -> PanopticFrame:
    return to_frame(assembly, get_taxonomy("cityscapes"))


MAPS = ("labels", "unknown", "semantic", "unknown_score", "confidence", "max_logit")


def maps_of(frame: PanopticFrame) -> list[npt.NDArray[Any]]:
    return [getattr(frame, name) for name in MAPS]


def digest(*arrays: Any) -> str:
    known = hashlib.blake2b()
    for array in arrays:
        known.update(np.ascontiguousarray(array).tobytes())
    return known.hexdigest()


VIEWS: dict[str, Callable[[npt.NDArray[Any]], Any]] = {
    "array": lambda array: array,
    "slice": lambda array: array[5:30, ::2],
    "view of a view": lambda array: array[3:].reshape(-1, 4)[::3].view(),
    "row": lambda array: array[17],
    "bytes": lambda array: array.view(np.uint8),
    "memoryview": lambda array: memoryview(array),
    "torch": lambda array: torch.from_numpy(array),
    "part of a torch": lambda array: torch.from_numpy(array)[3:9].t(),
    "dlpack": lambda array: np.from_dlpack(array[2:]),
    "torch by dlpack": lambda array: torch.from_dlpack(array),
    "numpy of a torch": lambda array: torch.from_numpy(array)[4:].numpy(),
    "record array": lambda array: array.view(np.recarray)[1:],
}


@pytest.mark.parametrize("view", VIEWS)
def test_memory_is_not_used_again_while_any_view_of_it_lives(view: str) -> None:
    memory = RecycledMemory(limit=3)
    held = VIEWS[view](frame_of(memory.hold(assembly_of(0))).labels)
    before = digest(held)
    for seed in range(1, 8):  # nobody holds these
        frame_of(memory.hold(assembly_of(seed)))
    assert digest(held) == before
    assert memory.idle_blocks()["labels"] == 1
    del held
    assert memory.idle_blocks()["labels"] == 2


def test_a_frame_equals_what_was_copied_and_its_memory_is_used_again() -> None:
    memory = RecycledMemory(limit=2)
    places = set()
    for seed in range(6):
        want, frame = frame_of(assembly_of(seed)), frame_of(memory.hold(assembly_of(seed)))
        for got, expected in zip(maps_of(frame), maps_of(want), strict=True):
            np.testing.assert_array_equal(got, expected)
            assert got.dtype == expected.dtype and got.flags.writeable
        assert frame.instances == want.instances
        places.add(frame.labels.ctypes.data)
        del frame
    assert len(places) == 1


def test_no_more_blocks_are_idle_than_allowed_and_an_empty_pool_does_not_wait() -> None:
    memory = RecycledMemory(limit=3)
    frames = [frame_of(memory.hold(assembly_of(seed))) for seed in range(9)]
    assert set(memory.idle_blocks().values()) == {0}
    del frames
    assert {memory.idle_blocks()[name] for name in MAPS} == {3}
    assert memory.idle_blocks()["table"] == 0  # too small to matter


def test_whoever_keeps_one_map_keeps_that_alone() -> None:
    memory = RecycledMemory(limit=3)
    unknown = frame_of(memory.hold(assembly_of(0))).unknown
    assert {name for name, count in memory.idle_blocks().items() if count} == set(MAPS) - {
        "unknown"
    }
    assert unknown.any()


def test_sizes_that_take_turns_keep_their_blocks() -> None:
    memory = RecycledMemory(limit=4)
    places: dict[tuple[int, int], set[int]] = {
        (256, 512): set(),
        (480, 640): set(),
        (90, 720): set(),
    }
    for seed in range(12):
        for size, seen in places.items():
            frame = frame_of(memory.hold(assembly_of(seed, size)))
            seen.add(frame.labels.ctypes.data)
            want = assembly_of(seed, size).labels.numpy()
            np.testing.assert_array_equal(frame.labels, want)
    assert all(len(seen) <= 2 for seen in places.values())


def test_frames_may_end_in_any_thread_and_in_a_collection_of_garbage() -> None:
    memory = RecycledMemory(limit=4)
    wrong: list[int] = []

    class Cycle:
        def __init__(self, frame: PanopticFrame) -> None:
            self.me, self.frame = self, frame

    def use(number: int) -> None:
        kept: list[tuple[PanopticFrame, str]] = []
        for turn in range(20):
            seed = 100 * number + turn
            frame = frame_of(memory.hold(assembly_of(seed)))
            kept.append((frame, digest(*maps_of(frame_of(assembly_of(seed))))))
            Cycle(frame)
            if turn % 7 == 0:
                gc.collect(1)
            if len(kept) > 3:
                frame, expected = kept.pop(turn % 3)
                if digest(*maps_of(frame)) != expected:
                    wrong.append(seed)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert wrong == [] and max(memory.idle_blocks().values()) <= 4


def test_in_steady_state_the_system_is_asked_for_no_pages() -> None:
    size = (1024, 2048)
    memory, source = RecycledMemory(limit=4), assembly_of(1, size)
    for _ in range(6):
        frame = frame_of(memory.hold(source))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        frame = frame_of(memory.hold(source))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert frame.labels.shape == size
    assert faults < 20 * 100


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSNET_RECYCLED_MEMORY", "0")
    memory = RecycledMemory(limit=3)
    frame = frame_of(memory.hold(assembly_of(4)))
    np.testing.assert_array_equal(frame.labels, assembly_of(4).labels.numpy())
    del frame
    assert set(memory.idle_blocks().values()) == {0}


class Segmenter:
    """Makes of an image, whose first pixel is a seed, a result; on a pretended GPU."""

    device = torch.device("cuda", 0)

    def settings(self) -> FrameSettings:
        return FrameSettings(score_threshold=0.5, head=HeadOptions())

    def timer(self) -> None:
        return None

    def compute_batch(self, images: Sequence[Tensor], *_: Any, **__: Any) -> list[Assembly]:
        return [assembly_of(int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])) for image in images]

    def frame(self, assembly: Assembly) -> PanopticFrame:
        return frame_of(assembly)


class _Streams:
    upload = compute = download = None
    device = torch.device("cpu")

    def __init__(self, device: torch.device) -> None:
        class Stream:
            def wait_event(self, event: object) -> None:
                pass

        self.upload = self.compute = self.download = Stream()


class _Event:
    def __init__(self, **_: Any) -> None:
        pass

    def record(self, stream: object = None) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    """Streams do nothing, and the device's memory and what is pinned are ordinary memory."""
    monkeypatch.setattr(ring, "_Streams", _Streams)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(
        ring.Buffer, "_allocate", lambda self, size: torch.empty(size, dtype=torch.uint8)
    )
    return Segmenter()


def image_of(seed: int) -> npt.NDArray[np.uint8]:
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0, :2] = seed % 256, seed // 256
    return image


class Collection:
    """Holds the first frames and views of them, and looks at them once others have passed."""

    def __init__(self) -> None:
        self._tracker = Tracker()
        self._held: list[tuple[list[Any], str]] = []
        self.passed = 0

    def add(self, frame: PanopticFrame) -> None:
        tracked = self._tracker(frame)
        assert [one.track_id for one in tracked.instances] == [1]
        if len(self._held) < HELD:
            names = list(VIEWS)
            arrays = [view for name in names if (view := VIEWS[name](frame.labels)) is not None]
            # Of every second frame views alone.
            whole = maps_of(tracked) if len(self._held) % 2 else [tracked.unknown[3:, 5:]]
            held = [*arrays[len(self._held) % len(arrays) :], *whole]
            self._held.append((held, digest(*held)))
        else:
            self.passed += 1

    def check(self) -> None:
        assert len(self._held) == HELD and self.passed == PASSING
        for held, expected in self._held:
            assert digest(*held) == expected


def seeds() -> Iterator[npt.NDArray[np.uint8]]:
    yield from map(image_of, range(HELD + PASSING))


def test_frames_of_a_stream_that_are_held_stay_as_they_are(pretended_gpu: Segmenter) -> None:
    collection = Collection()
    for frame in in_order(pretended_gpu, seeds()):
        collection.add(frame)
    collection.check()


def test_frames_of_the_nodes_threads_that_are_held_stay_as_they_are(
    pretended_gpu: Segmenter,
) -> None:
    collection, published = Collection(), threading.Semaphore(0)
    failures: list[Exception] = []

    class Steps:
        def __init__(self, pipeline: Pipeline) -> None:
            self._pipeline = pipeline

        def decode(self, camera: str, frame: Any) -> Any:
            return frame

        def submit(self, images: Sequence[Any]) -> list[Future[PanopticFrame]]:
            return self._pipeline.submit_together(images)

        def publish(self, camera: str, image: Any, result: PanopticFrame) -> None:
            collection.add(result)
            published.release()

        def failed(self, camera: str, error: Exception) -> None:
            failures.append(error)
            published.release()

    with Pipeline(pretended_gpu, depth=2, batch=2) as pipeline:
        worker: FrameWorker[Any, Any, PanopticFrame] = FrameWorker(
            cameras=["a", "b"], steps=Steps(pipeline)
        )
        worker.start(batch=2, depth=2)
        for number, image in enumerate(seeds()):
            worker.offer("ab"[number % 2], image)
            assert published.acquire(timeout=LONG)
        worker.stop()
        (memory,) = {slot._memory for slot in pipeline._ring.slots}  # type: ignore[union-attr]
        assert max(memory.idle_blocks().values()) <= 2 * 2 + 2
    assert failures == []
    collection.check()
