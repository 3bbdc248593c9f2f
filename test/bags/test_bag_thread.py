"""A bag that is written by a thread of its own."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from upsnet_ros.bags.messages import MessageTypes
from upsnet_ros.bags.reader import open_bag
from upsnet_ros.bags.writer import BagThread
from upsnet_ros.errors import BagError

STRING = "std_msgs/msg/String"


def text(index: int) -> bytes:
    types = MessageTypes()
    return types.serialize(types.make(STRING, data=f"message {index}"), STRING)


def read(path: Path) -> list[tuple[str, int, str]]:
    with open_bag(path) as bag:
        assert bag.losses == []
        return [(one.topic, one.time_ns, one.message.data) for one in bag]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_everything_that_was_written_is_there(tmp_path: Path, storage: str) -> None:
    with BagThread(tmp_path / "bag", storage=storage, latched=["/said_once"]) as bag:
        for index in range(100):
            bag.write("/said_once" if index == 0 else "/said", text(index), index, STRING)
    written = read(tmp_path / "bag")
    assert [(time, data) for _, time, data in written] == [
        (index, f"message {index}") for index in range(100)
    ]
    with open_bag(tmp_path / "bag") as reader:
        assert {one.name: (one.count, one.latched) for one in reader.topics} == {
            "/said_once": (1, True),
            "/said": (99, False),
        }


def test_an_error_of_the_caller_leaves_the_bag_whole(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), BagThread(tmp_path / "bag") as bag:
        for index in range(40):
            bag.write("/said", text(index), index, STRING)
        raise KeyboardInterrupt
    assert len(read(tmp_path / "bag")) == 40


def test_a_bag_that_exists_is_refused_on_entering(tmp_path: Path) -> None:
    (tmp_path / "metadata.yaml").touch()
    with pytest.raises(BagError, match="exists"), BagThread(tmp_path):
        pytest.fail("it was opened")


def test_what_cannot_be_written_is_raised_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    with (
        pytest.raises(BagError, match="unknown_msgs/msg/Odd"),
        BagThread(tmp_path / "bag") as bag,
    ):
        bag.write("/said", text(0), 0, STRING)
        for index in range(1000):
            bag.write("/odd", b"", index, "unknown_msgs/msg/Odd")
    assert len(read(tmp_path / "bag")) == 1


def test_a_disk_that_is_full_when_the_bag_is_closed(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(BagError, match=r"cannot write .*: File too large"),
            BagThread(tmp_path / "bag") as bag,
        ):
            bag.write("/said", text(0), 0, STRING)
            full = (tmp_path / "bag" / "bag.mcap").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (full, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
