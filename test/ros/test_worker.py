from __future__ import annotations

import threading
from collections import Counter

import pytest

from upsnet_ros.ros.worker import FrameWorker

SECONDS = 30


class Engine:
    """Answers when it is let to, and keeps what it was given."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.answered = []
        self.failures = []
        self.threads = set()

    def answer(self, camera, frame):
        self.begun.release()
        assert self.let.acquire(timeout=SECONDS)
        self.threads.add(threading.current_thread())
        if isinstance(frame, Exception):
            raise frame
        self.answered.append((camera, frame))

    def failed(self, camera, error):
        self.failures.append((camera, error))

    def wait_begun(self):
        assert self.begun.acquire(timeout=SECONDS)


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def worker(engine):
    worker = FrameWorker(
        cameras=["front", "left", "right"], answer=engine.answer, failed=engine.failed
    )
    worker.start()
    yield worker
    for _ in range(100):
        engine.let.release()
    worker.stop()


def test_the_newest_frame_wins_and_the_older_ones_are_returned(engine, worker):
    assert worker.offer("front", 1) is None
    engine.wait_begun()
    assert [worker.offer("front", number) for number in range(2, 8)] == [None, 2, 3, 4, 5, 6]
    engine.let.release()
    engine.wait_begun()
    engine.let.release()
    worker.stop()
    assert engine.answered == [("front", 1), ("front", 7)]


def test_frames_are_answered_off_the_callers_thread(engine, worker):
    worker.offer("front", 1)
    engine.let.release()
    engine.wait_begun()
    worker.stop()
    assert threading.current_thread() not in engine.threads
    assert len(engine.threads) == 1


def test_no_camera_starves_under_overload(engine, worker):
    for turn in range(30):
        worker.offer("front", turn)
        worker.offer("front", turn)  # twice as fast as the others
        worker.offer("left", turn)
        worker.offer("right", turn)
        engine.wait_begun()
        engine.let.release()
    counts = Counter(camera for camera, _ in engine.answered)
    assert set(counts) == {"front", "left", "right"}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_stop_finishes_the_begun_frame_and_gives_the_waiting_ones_back(engine, worker):
    worker.offer("front", 1)
    engine.wait_begun()
    worker.offer("front", 2)
    worker.offer("left", 3)
    left = {}
    stopping = threading.Thread(target=lambda: left.update(worker.stop()))
    stopping.start()
    while worker.offer("right", 4) is None:  # until it stops: then it takes no frame
        pass
    engine.let.release()
    stopping.join(SECONDS)
    assert engine.answered == [("front", 1)]
    assert {"front": 2, "left": 3}.items() <= left.items()


def test_an_exception_ends_one_frame_only(engine, worker):
    error = RuntimeError("CUDA out of memory")
    worker.offer("front", error)
    engine.let.release()
    engine.wait_begun()
    worker.offer("left", 1)
    engine.let.release()
    engine.wait_begun()
    worker.stop()
    assert engine.failures == [("front", error)]
    assert engine.answered == [("left", 1)]


def test_it_can_be_started_again_but_not_twice(engine, worker):
    with pytest.raises(RuntimeError, match="runs already"):
        worker.start()
    assert worker.stop() == {}
    assert worker.stop() == {}
    worker.start()
    worker.offer("right", 5)
    engine.let.release()
    engine.wait_begun()
    worker.stop()
    assert engine.answered == [("right", 5)]


def test_stop_need_not_wait_for_a_frame_that_takes_too_long(engine, worker):
    worker.offer("front", 1)
    engine.wait_begun()
    assert not worker.left_alone
    worker.stop(timeout=0.01)
    assert worker.left_alone
    with pytest.raises(RuntimeError, match="runs already"):
        worker.start()
    engine.let.release()
    worker._left_alone.join(SECONDS)
    assert not worker.left_alone
    assert engine.answered == [("front", 1)]
    worker.start()
