from __future__ import annotations

import gc
import itertools
import random
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upsnet_ros.node.worker import FrameWorker

SECONDS = 30


class Steps:
    """Computes when it is let to, and keeps what it was given."""

    def __init__(self):
        self.submitted = threading.Semaphore(0)
        self.under_way = []  # (frames, their futures), as they were submitted
        self.published = []
        self.failures = []
        self.refused = []
        self.threads = {"submit": set(), "publish": set()}
        self.publishing = threading.Event()
        self.publishing.set()

    def decode(self, camera, frame):
        if frame == "malformed":
            self.refused.append(camera)
            return None
        if isinstance(frame, Exception):
            raise frame
        return frame

    def submit(self, images):
        self.threads["submit"].add(threading.current_thread())
        if "no room" in images:
            raise ValueError("no room")
        futures = [Future() for _ in images]
        self.under_way.append((list(images), futures))
        self.submitted.release()
        return futures

    def publish(self, camera, image, result):
        self.threads["publish"].add(threading.current_thread())
        assert self.publishing.wait(SECONDS)
        if isinstance(result, Exception):
            raise result
        self.published.append((camera, image, result))

    def failed(self, camera, error):
        self.failures.append((camera, error))

    def wait_submitted(self, times=1):
        """Waits for so many submissions more; returns the frames of the last."""
        for _ in range(times):
            assert self.submitted.acquire(timeout=SECONDS)
        return self.under_way[-1][0]

    def compute(self, submission, result="computed"):
        """Ends one of the submissions, by its number or the last as -1."""
        for future in self.under_way[submission][1]:
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


@pytest.fixture
def steps():
    return Steps()


@pytest.fixture
def worker(steps):
    worker = FrameWorker(cameras=["front", "left", "right"], steps=steps)
    yield worker
    ending = threading.Thread(target=worker.stop)
    ending.start()
    while ending.is_alive():
        steps.publishing.set()
        for _, futures in list(steps.under_way):
            for future in futures:
                if not future.done():
                    future.set_result("at the end")
        ending.join(0.01)


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.0005)


def names(published):
    return [(camera, image) for camera, image, _ in published]


def test_the_newest_frame_wins_and_the_older_ones_are_returned(steps, worker):
    worker.start()
    assert worker.offer("front", 1) is None
    steps.wait_submitted()
    assert [worker.offer("front", number) for number in range(2, 8)] == [None, 2, 3, 4, 5, 6]
    steps.compute(0)
    steps.wait_submitted()
    steps.compute(1)
    worker.stop()
    assert steps.published == [("front", 1, "computed"), ("front", 7, "computed")]


def test_frames_are_submitted_and_answered_off_the_callers_thread(steps, worker):
    worker.start()
    for number in range(2):
        worker.offer("front", number)
        steps.wait_submitted()
        steps.compute(-1)
    worker.stop()
    used = steps.threads["submit"] | steps.threads["publish"]
    assert [len(threads) for threads in steps.threads.values()] == [1, 1]
    assert len(used) == 2
    assert threading.current_thread() not in used


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_no_camera_starves_under_overload(steps, worker, batch, depth):
    worker.start(batch=batch, depth=depth)
    for turn in range(30):
        worker.offer("front", turn)
        worker.offer("front", turn)  # twice as fast as the others
        worker.offer("left", turn)
        worker.offer("right", turn)
        steps.wait_submitted()
        steps.compute(turn)
    worker.stop()
    counts = Counter(camera for camera, _, _ in steps.published)
    assert set(counts) == {"front", "left", "right"}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_frames_that_wait_are_submitted_together_and_a_lone_one_alone(steps, worker):
    worker.start(batch=2)
    worker.offer("front", 1)
    assert steps.wait_submitted() == [1]
    for camera, frame in {"right": 2, "front": 3, "left": 4}.items():
        worker.offer(camera, frame)
    steps.compute(0)
    assert steps.wait_submitted() == [4, 2], "who was served longest ago"
    steps.compute(1)
    assert steps.wait_submitted() == [3]
    steps.compute(2)
    worker.stop()
    assert names(steps.published) == [("front", 1), ("left", 4), ("right", 2), ("front", 3)]


def test_no_more_submissions_than_its_depth_and_answers_in_their_order(steps, worker):
    worker.start(depth=2)
    for camera in ("front", "left", "right"):
        worker.offer(camera, camera)
    steps.wait_submitted(2)
    steps.compute(1)  # the second before the first
    assert not steps.submitted.acquire(timeout=0.05)
    assert not steps.published
    steps.compute(0)
    steps.wait_submitted()
    steps.compute(2)
    worker.stop()
    assert names(steps.published) == [("front", "front"), ("left", "left"), ("right", "right")]


def test_the_next_frame_is_computed_while_an_answer_is_published(steps, worker):
    worker.start()
    steps.publishing.clear()
    worker.offer("front", 1)
    steps.wait_submitted()
    worker.offer("left", 2)
    steps.compute(0)
    assert steps.wait_submitted() == [2]
    assert not steps.published
    assert not worker.idle


def test_stop_finishes_started_frames_and_returns_the_waiting_ones(steps, worker):
    worker.start(depth=2)
    for camera in ("front", "left"):
        worker.offer(camera, 1)
    steps.wait_submitted(2)
    worker.offer("front", 2)
    worker.offer("left", 3)
    left = {}
    stopping = threading.Thread(target=lambda: left.update(worker.stop()))
    stopping.start()
    frame = object()
    while worker.offer("right", frame) is not frame:  # until it stops: then it takes none
        frame = object()
    steps.compute(0)
    steps.compute(1)
    stopping.join(SECONDS)
    assert names(steps.published) == [("front", 1), ("left", 1)]
    assert {"front": 2, "left": 3}.items() <= left.items()
    assert worker.idle


@pytest.mark.parametrize("step", ["decode", "submit", "compute", "publish"])
def test_an_exception_ends_one_frame_only(steps, worker, step):
    worker.start()
    error = RuntimeError("CUDA out of memory")
    worker.offer("front", {"decode": error, "submit": "no room"}.get(step, 1))
    if step in ("compute", "publish"):
        steps.wait_submitted()
        if step == "compute":
            steps.compute(0, error)
        else:
            for future in steps.under_way[0][1]:
                future.set_result(error)  # which publish raises
    worker.offer("left", 2)
    assert steps.wait_submitted() == [2]
    steps.compute(-1)
    worker.stop()
    ((camera, raised),) = steps.failures
    assert camera == "front"
    assert str(raised) == ("no room" if step == "submit" else str(error))
    assert names(steps.published) == [("left", 2)]
    assert worker.idle


def test_a_frame_that_cannot_be_decoded_does_not_hold_up_those_beside_it(steps, worker):
    worker.start(batch=3)
    worker.offer("front", 0)
    steps.wait_submitted()
    error = MemoryError()
    for camera, frame in {"left": error, "right": 1, "front": "malformed"}.items():
        worker.offer(camera, frame)
    steps.compute(0)
    assert steps.wait_submitted() == [1]
    steps.compute(1)
    worker.stop()
    assert steps.failures == [("left", error)]
    assert steps.refused == ["front"]
    assert worker.idle


def test_a_frame_that_was_refused_is_over(steps, worker):
    worker.start()
    worker.offer("front", "malformed")
    worker.offer("left", 1)
    assert steps.wait_submitted() == [1]


def test_it_can_be_started_again_but_not_twice(steps, worker):
    worker.start()
    with pytest.raises(RuntimeError, match="already running"):
        worker.start()
    assert worker.stop() == {}
    assert worker.stop() == {}
    worker.start()
    worker.offer("right", 5)
    steps.wait_submitted()
    steps.compute(0)
    worker.stop()
    assert names(steps.published) == [("right", 5)]


def test_stop_need_not_wait_for_a_frame_that_takes_too_long(steps, worker):
    worker.start()
    worker.offer("front", 1)
    steps.wait_submitted()
    assert not worker.left_alone
    worker.stop(timeout=0.01)
    assert worker.left_alone
    worker.stop()  # there is nothing to stop any more
    assert worker.left_alone
    with pytest.raises(RuntimeError, match="already running"):
        worker.start()
    steps.compute(0)
    for thread in worker._stopped:
        thread.join(SECONDS)
    assert not worker.left_alone
    assert names(steps.published) == [("front", 1)]
    worker.start()


class Picture:
    """An image that tells whether it is still held."""


@pytest.mark.parametrize("fails", [False, True])
def test_an_image_is_let_go_as_soon_as_its_frame_is_over(steps, worker, fails):
    gc.disable()  # which would only hide for how long it was held
    try:
        worker.start()
        image = Picture()
        held = weakref.ref(image)
        worker.offer("front", image)
        steps.wait_submitted()
        del image
        steps.under_way[0][0].clear()
        steps.compute(0, RuntimeError("no kernel image") if fails else "computed")
        steps.under_way.clear()
        wait_until(lambda: worker.idle)
        steps.published.clear()
        steps.failures.clear()
        wait_until(lambda: held() is None)
    finally:
        gc.enable()


def test_where_there_is_no_thread_for_it_it_can_be_started_later(steps, worker, monkeypatch):
    start, started = threading.Thread.start, []

    def none_left(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            worker.start()
        assert worker.stop() == {}
    worker.start()
    worker.offer("front", 1)
    steps.wait_submitted()
    steps.compute(0)
    worker.stop()
    assert names(steps.published) == [("front", 1)]


NOT_STOPPED = """
import threading, time
from concurrent.futures import Future
from upsnet_ros.node.worker import FrameWorker

class Steps:
    def decode(self, camera, frame):
        return frame
    def submit(self, images):
        future = Future()
        threading.Timer(0.2, future.set_result, [images[0]]).start()
        running.set()
        return [future]
    def publish(self, camera, image, result):
        print("answered", result, flush=True)

running = threading.Event()
worker = FrameWorker(cameras=["front"], steps=Steps())
worker.start()
worker.offer("front", 1)
running.wait(30)
"""


def test_the_interpreter_ends_though_nobody_stops_it_and_finishes_started_frames():
    ended = subprocess.run(
        [sys.executable, "-c", NOT_STOPPED], capture_output=True, text=True, timeout=240, check=True
    )
    assert (ended.stdout, ended.stderr) == ("answered 1\n", "")


class Chance:
    """Steps that end as a frame, which is a number and a word, says; they note all that happens."""

    def __init__(self, *, batch, depth, seed):
        self.batch, self.depth = batch, depth
        self.ends = []  # (frame, how it ended)
        self.submitted, self.answered = [], []
        self.most_under_way = 0
        self._under_way = 0
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4)

    def end(self, frame, how):
        with self._lock:
            self.ends.append((frame, how))

    def decode(self, camera, frame):
        if frame[1] == "malformed":
            self.end(frame, "rejected")
            return None
        self._raise(frame, "decode")
        return frame

    def submit(self, images):
        for frame in images:
            self._raise(frame, "submit")
        assert 0 < len(images) <= self.batch
        with self._lock:
            self._under_way += 1
            self.most_under_way = max(self.most_under_way, self._under_way)
            delays = [self._chance.random() / 1000 for _ in images]
            self.submitted += images
        futures = [Future() for _ in images]
        self._pool.submit(self._compute, list(zip(images, futures, delays, strict=True)))
        return futures

    def _compute(self, jobs):
        for number, (frame, future, delay) in enumerate(jobs, 1):
            time.sleep(delay)
            if number == len(jobs):  # before the worker can hear of it
                with self._lock:
                    self._under_way -= 1
            if frame[1] == "cancelled":
                future.cancel()
            elif frame[1] == "compute":
                future.set_exception(RuntimeError(frame[1]))
            else:
                future.set_result(frame)

    def publish(self, camera, image, result):
        assert image is result
        self._raise(image, "publish")
        self.answered.append(image)
        self.end(image, "answered")

    def failed(self, camera, error):
        self.end(camera, "failed")

    def close(self):
        self._pool.shutdown()

    @staticmethod
    def _raise(frame, step):
        if frame[1] == step:
            raise RuntimeError(step)


CAMERAS = ("front", "left", "right")
FATES = ("good",) * 8 + ("malformed", "decode", "submit", "compute", "cancelled", "publish")


@settings(max_examples=60)
@given(
    batch=st.integers(1, 4),
    depth=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    fates=st.lists(st.lists(st.sampled_from(FATES), max_size=40), min_size=3, max_size=3),
    stops=st.booleans(),
)
def test_whatever_happens_each_frame_ends_once_and_answers_keep_their_order(
    batch, depth, seed, fates, stops
):
    steps = Chance(batch=batch, depth=depth, seed=seed)
    worker = FrameWorker(cameras=CAMERAS, steps=steps)
    numbers = itertools.count()
    offered, overtaken, left = [], [], {}

    def send(camera, words, chance):
        for word in words:
            frame = (next(numbers), word)
            offered.append(frame)
            older = worker.offer(camera, frame)
            if older is not None:
                overtaken.append(older)
            if chance.random() < 0.5:
                time.sleep(chance.random() / 1000)

    worker.start(batch=batch, depth=depth)
    senders = [
        threading.Thread(target=send, args=(camera, words, random.Random(seed + number)))
        for number, (camera, words) in enumerate(zip(CAMERAS, fates, strict=True))
    ]
    for sender in senders:
        sender.start()
    if stops:  # in the middle, and restarts
        left = dict(worker.stop())
        assert not worker.left_alone
        worker.start(batch=batch, depth=depth)
    for sender in senders:
        sender.join(SECONDS)
    wait_until(lambda: worker.idle)
    assert worker.stop() == {}
    steps.close()

    assert steps.most_under_way <= depth
    assert steps.answered == [one for one in steps.submitted if one in set(steps.answered)]
    # Who fails is told by camera alone; no end but that may be missing, and none be there twice.
    told = [frame for frame, how in steps.ends if how != "failed"]
    told += [*overtaken, *left.values()]
    assert len(told) == len(set(told))
    missing = set(offered) - set(told)
    failures = Counter(camera for camera, how in steps.ends if how == "failed")
    assert failures.total() == len(missing)
    assert len(offered) == len(set(offered)) == len(told) + len(missing)
    # A submission is refused as a whole, so others may fail beside the one that it is refused for.
    assert "submit" in {word for _, word in missing} or "good" not in {word for _, word in missing}
