from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bag_messages import IMAGE, TYPES, make_image
from child_path import with_support
from mcap.reader import make_reader

from upsnet_ros.bags.reader import open_bag
from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.errors import BagError

# Writes until it is stopped, and tells of every message.
ENDLESS = """
import sys, time
from bag_messages import IMAGE, make_image
from upsnet_ros.bags import BagWriter
path, storage, compression = sys.argv[1:]
with BagWriter(path=path, storage=storage, compression=compression) as bag:
    for number in range(10**6):
        bag.write("/a", make_image(number, size=300), number, IMAGE)
        print(number, flush=True)
        time.sleep(0.002)
"""


def stop_a_writer(path: Path, number: signal.Signals, storage: str, compression: str) -> int:
    """Ends a writer after it told of 60 messages; returns how many it had told of."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path), storage, compression],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=with_support(),
        text=True,
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 60:
                break
        else:
            raise AssertionError("the writer ended by itself")
        process.send_signal(number)
        return 61 + len(process.stdout.read().split())


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_killed_writer_leaves_a_readable_bag(tmp_path: Path, storage, compression):
    path = tmp_path / "bag"
    told = stop_a_writer(path, signal.SIGKILL, storage, compression)
    assert not (path / "metadata.yaml").exists()
    with open_bag(path) as bag:
        records = list(bag)
        assert [record.time_ns for record in records] == list(range(len(records)))
        assert all(int(r.message.data[-1]) == r.time_ns % 251 for r in records)
        # Of images of 90 kB at most a mebibyte is on its way.
        assert told - 13 <= len(records) <= told + 1
        # SQLite leaves no trace where all was committed just before.
        assert len(bag.losses) == 1 or (storage == "sqlite3" and len(records) >= told)
    with open_bag(path) as bag:  # and reading it changed nothing
        assert len(list(bag)) == len(records)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_ctrl_c_leaves_a_whole_bag(tmp_path: Path, storage):
    path = tmp_path / "bag"
    told = stop_a_writer(path, signal.SIGINT, storage, "zstd")
    with open_bag(path) as bag:
        assert told <= len(list(bag)) <= told + 1
        assert bag.losses == []
    assert (path / "metadata.yaml").exists()


def test_an_exception_leaves_a_whole_bag(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), BagWriter(path=tmp_path / "bag") as bag:
        bag.write("/a", make_image(1), 1, IMAGE)
        1 / 0  # noqa: B018
    with open_bag(tmp_path / "bag") as bag:
        assert (len(list(bag)), bag.losses) == (1, [])


def test_the_definitions_lie_in_the_file(tmp_path: Path):
    # Which is what Foxglove needs; read here by the library of MCAP's makers.
    kind = "upsnet_ros/msg/PanopticLabelInfo"
    from bag_messages import make_header

    info = TYPES.make(kind, header=make_header(1), dataset="x", label_divisor=1000, classes=[])
    with BagWriter(path=tmp_path / "bag") as bag:
        bag.add_topic("/label_info", kind, latched=True)
        bag.write("/label_info", info, 1, kind)
    with (tmp_path / "bag" / "bag.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        schema, channel, message = next(reader.iter_messages())
    assert schema is not None
    assert (schema.name, schema.encoding) == (kind, "ros2msg")
    assert b"uint32 label_divisor" in schema.data
    assert b"MSG: upsnet_ros/PanopticClass" in schema.data
    assert (channel.message_encoding, message.log_time) == ("cdr", 1)
    with open_bag(tmp_path / "bag") as bag:
        assert [topic.latched for topic in bag.topics] == [True]


def test_types_of_another_bag_go_along(tmp_path: Path):
    from upsnet_ros.bags.messages import MessageTypes
    from upsnet_ros.bags.storage import Definition

    types = MessageTypes([Definition("other_msgs/msg/Count", "ros2msg", "uint32 value\n")])
    with BagWriter(path=tmp_path / "first", types=types) as out:
        kind = "other_msgs/msg/Count"
        out.write("/count", types.make(kind, value=3), 1, kind)
    with (
        open_bag(tmp_path / "first") as bag,
        BagWriter(path=tmp_path / "second", types=bag.types) as out,
    ):
        for record in bag:
            out.write(record.topic, record.raw, record.time_ns, record.msgtype)
    with open_bag(tmp_path / "second") as bag:
        assert [record.message.value for record in bag] == [3]


def test_what_cannot_be_written(tmp_path: Path):
    for name in ("metadata.yaml", "old.mcap", "old.db3"):
        (tmp_path / name / "old").mkdir(parents=True)
        (tmp_path / name / "old" / name).symlink_to("nowhere")
        with pytest.raises(BagError, match="exists"):
            BagWriter(path=tmp_path / name / "old")
    with pytest.raises(BagError, match=r"'bz2' .*none, zstd"):
        BagWriter(path=tmp_path / "bag", compression="bz2")
    with pytest.raises(BagError, match=r"'leveldb' .*mcap, sqlite3"):
        BagWriter(path=tmp_path / "bag", storage="leveldb")
    (tmp_path / "file").touch()
    with pytest.raises(BagError, match="cannot write"):
        BagWriter(path=tmp_path / "file" / "bag")
    with BagWriter(path=tmp_path / "bag") as bag:
        with pytest.raises(BagError, match="other_msgs/msg/Count is unknown"):
            bag.write("/a", b"", 1, "other_msgs/msg/Count")
        bag.write("/a", make_image(1), 1, IMAGE)
        with pytest.raises(BagError, match="/a is of sensor_msgs/msg/Image"):
            bag.write("/a", b"", 1, "std_msgs/msg/String")
