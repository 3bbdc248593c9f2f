from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import zstandard
from bag_messages import IMAGE, TYPES, make_image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from upsnet_ros.bags.reader import open_bag
from upsnet_ros.bags.storage import Limits
from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.errors import BagError

SECOND = 10**9


def write(path: Path, seconds: list[int], topic: str = "/camera/image_raw", **options) -> Path:
    with BagWriter(path=path, **options) as bag:
        for second in seconds:
            bag.write(topic, make_image(second), second * SECOND, IMAGE)
    return path


def times(path: Path, **options) -> list[int]:
    with open_bag(path, **options) as bag:
        return [record.time_ns // SECOND for record in bag]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_what_was_written_is_read_in_order_of_time(tmp_path: Path, storage, compression):
    path = write(tmp_path / "bag", [3, 1, 2], storage=storage, compression=compression)
    with open_bag(path) as bag:
        assert [(topic.name, topic.msgtype, topic.count) for topic in bag.topics] == [
            ("/camera/image_raw", IMAGE, 3)
        ]
        assert (bag.start_time, bag.end_time, bag.losses) == (SECOND, 3 * SECOND, [])
        records = list(bag)
        assert [record.time_ns for record in records] == [SECOND, 2 * SECOND, 3 * SECOND]
        assert [int(record.message.data[-1]) for record in records] == [1, 2, 3]
        assert [record.time_ns for record in bag] == [record.time_ns for record in records]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_part_of_a_bag(tmp_path: Path, storage):
    path = tmp_path / "bag"
    with BagWriter(path=path, storage=storage) as bag:
        for second in range(10, 20):
            bag.write("/a", make_image(second), second * SECOND, IMAGE)
            bag.write("/b", make_image(second), second * SECOND, IMAGE)
    assert times(path, topics=["/a"]) == list(range(10, 20))
    assert times(path, topics=["/b"], start=2.0, duration=3.0) == [12, 13, 14]
    assert times(path, topics=[]) == []


def test_a_single_file_and_one_without_metadata(tmp_path: Path):
    path = write(tmp_path / "bag", [1, 2])
    assert times(path / "bag.mcap") == [1, 2]
    (path / "metadata.yaml").unlink()
    assert times(path) == [1, 2]


@pytest.mark.parametrize("metadata", [True, False])
def test_a_split_bag_is_read_across_its_files(tmp_path: Path, metadata):
    first = write(tmp_path / "first", [1, 2, 5])
    second = write(tmp_path / "second", [3, 4, 6])
    (second / "second.mcap").rename(first / "zz.mcap")
    if metadata:
        text = (first / "metadata.yaml").read_text()
        text = text.replace("- first.mcap\n", "- first.mcap\n  - zz.mcap\n")
        assert "zz.mcap" in text
        (first / "metadata.yaml").write_text(text)
    else:
        (first / "metadata.yaml").unlink()
    with open_bag(first) as bag:
        assert bag.topics[0].count == 6
    assert times(first) == [1, 2, 3, 4, 5, 6]


def test_missing_files_of_a_split_bag_are_told(tmp_path: Path):
    path = write(tmp_path / "bag", [1, 2])
    text = (path / "metadata.yaml").read_text()
    (path / "metadata.yaml").write_text(text.replace("- bag.mcap\n", "- bag.mcap\n  - gone.mcap\n"))
    with open_bag(path) as bag:
        assert len(list(bag)) == 2
        assert bag.losses == ["bag: its file gone.mcap is missing"]


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_other_ways_to_compress(tmp_path: Path, plugin, mode):
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/a", IMAGE, typestore=TYPES.store(IMAGE))
        writer.write(connection, SECOND, TYPES.serialize(make_image(7), IMAGE))
    with open_bag(tmp_path / "bag") as bag:
        assert [int(record.message.data[0]) for record in bag] == [7]


def test_a_bag_cut_off_anywhere_gives_what_is_whole(tmp_path: Path):
    seconds = list(range(1, 41))
    cut = tmp_path / "cut.mcap"
    with BagWriter(path=tmp_path / "small") as bag:
        for second in seconds:
            bag.write("/a", make_image(second), second * SECOND, IMAGE)
            bag.flush()
    whole = (tmp_path / "small" / "small.mcap").read_bytes()
    counts = []
    for share in (0.2, 0.5, 0.8):
        cut.write_bytes(whole[: int(len(whole) * share)])
        with open_bag(cut) as bag:
            found = [record.time_ns // SECOND for record in bag]
            assert found == seconds[: len(found)]
            assert bag.topics[0].count == len(found)
            assert len(bag.losses) == 1
            assert "cut off" in bag.losses[0]
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[0] >= 5
    assert counts[-1] >= 25


def test_a_damaged_chunk_is_left_out_and_told(tmp_path: Path):
    path = tmp_path / "bag"
    with BagWriter(path=path, compression="zstd") as bag:
        for second in range(1, 6):
            bag.write("/a", make_image(second), second * SECOND, IMAGE)
            bag.flush()
    file = path / "bag.mcap"
    data = bytearray(file.read_bytes())
    at = data.find(b"\x28\xb5\x2f\xfd", data.find(b"\x28\xb5\x2f\xfd") + 1)  # the second chunk
    data[at : at + 4] = b"\0\0\0\0"
    file.write_bytes(data)
    with open_bag(path) as bag:
        assert [record.time_ns // SECOND for record in bag] == [1, 3, 4, 5]
        assert len(bag.losses) == 1
        assert "damaged" in bag.losses[0]


def test_messages_outside_of_chunks_out_of_order(tmp_path: Path):
    # As rosbag2's preset "fastwrite" leaves them; `rosbags` refuses those.
    from mcap.writer import Writer as PlainWriter

    path = tmp_path / "plain.mcap"
    with path.open("wb") as file:
        writer = PlainWriter(file, use_chunking=False)
        writer.start(profile="ros2", library="test")
        text = TYPES.store(IMAGE).generate_msgdef(IMAGE, ros_version=2)[0]
        schema = writer.register_schema(name=IMAGE, encoding="ros2msg", data=text.encode())
        channel = writer.register_channel(topic="/a", message_encoding="cdr", schema_id=schema)
        for second in (2, 1, 3):
            raw = TYPES.serialize(make_image(second), IMAGE)
            writer.add_message(channel, second * SECOND, raw, second * SECOND)
        writer.finish()
    with open_bag(path) as bag:
        assert [int(record.message.data[0]) for record in bag] == [1, 2, 3]
        assert bag.losses == []


def test_topics_that_are_not_there_are_named(tmp_path: Path):
    path = write(tmp_path / "bag", [1])
    with pytest.raises(BagError, match=r"no topic /b; .*/camera/image_raw"):
        open_bag(path, topics=["/b"])
    with pytest.raises(BagError, match="a list of topics is needed"):
        open_bag(path, topics="/camera/image_raw")


def test_what_is_no_bag(tmp_path: Path):
    with pytest.raises(BagError, match="there is no bag"):
        open_bag(tmp_path / "none")
    with pytest.raises(BagError, match=r"no \.mcap or \.db3"):
        open_bag(tmp_path)
    for name, reason in {
        "picture.png": "is not a ROS 2 bag",
        "old.bag": "rosbags-convert",
        "text.mcap": "is no MCAP file",
        "text.db3": "is not an SQLite bag",
        "text.db3.zstd": "cannot be decompressed",
    }.items():
        (tmp_path / name).write_text("nothing of that kind, and longer than any header would be")
        with pytest.raises(BagError, match=reason):
            open_bag(tmp_path / name)


def test_an_empty_bag(tmp_path: Path):
    with BagWriter(path=tmp_path / "bag") as bag:
        bag.add_topic("/a", IMAGE)
    with open_bag(tmp_path / "bag") as bag:
        assert list(bag) == []
        assert (bag.start_time, bag.end_time, bag.losses) == (0, 0, [])


def test_a_compressed_message_that_is_damaged(tmp_path: Path):
    raw = zstandard.compress(TYPES.serialize(make_image(1), IMAGE))
    with BagWriter(path=tmp_path / "bag") as bag:
        bag.write("/a", raw[:4] + b"\xff" * 20, SECOND, IMAGE)
    with open_bag(tmp_path / "bag") as bag, pytest.raises(BagError, match=r"/a at .* is damaged"):
        list(bag)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("first", [0, 20 * SECOND])
@pytest.mark.parametrize("flushed", [True, False])
def test_the_clock_may_leap_before_the_first_image(tmp_path: Path, storage, first, flushed):
    # As simulations begin, or robots that learn the time from the network.
    now = 1_700_000_000
    with BagWriter(path=tmp_path / "bag", storage=storage) as bag:
        bag.write("/early", make_image(1), first, IMAGE)
        if flushed:
            bag.flush()
        for second in range(now, now + 20):
            bag.write("/a", make_image(second), second * SECOND, IMAGE)
    path = tmp_path / "bag"
    assert times(path, duration=3.0) == [first // SECOND, now, now + 1, now + 2]
    assert times(path, start=10.0, duration=2.0) == [now + 10, now + 11]
    with open_bag(path) as bag:
        assert bag.leaps == [(now * SECOND, now * SECOND - first)]
        assert bag.seconds == pytest.approx(19)
        assert len(list(bag)) == 21


def test_a_pause_is_no_leap(tmp_path: Path):
    path = write(tmp_path / "bag", [5, 6, 1200])
    assert times(path, duration=10.0) == [5, 6]
    assert times(path, start=1100.0) == [1200]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("name", ["start", "duration"])
def test_times_that_are_none(tmp_path: Path, name, value):
    path = write(tmp_path / "bag", [1])
    with pytest.raises(BagError, match=f"{name} must be a number of seconds"):
        open_bag(path, **{name: value})


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize(
    "name", ["a#b", "a?b", "a%41b", "..%2fb", "a b&mode=rwc", "ä", "it's;", "\udcff"]
)
def test_any_name_of_a_file(tmp_path: Path, storage, name):
    path = write(tmp_path / "bag", [1, 2], storage=storage)
    (file,) = (one for one in path.iterdir() if one.suffix != ".yaml")
    folder = path.rename(tmp_path / name)
    (folder / "metadata.yaml").unlink()
    odd = (folder / file.name).rename(folder / f"{name}{file.suffix}")
    assert times(odd) == [1, 2]
    assert times(folder) == [1, 2]
    assert sorted(one.name for one in tmp_path.iterdir()) == [name]


def name_files(folder: Path, names: str) -> None:
    text = f"rosbag2_bagfile_information:\n  relative_file_paths: {names}\n"
    (folder / "metadata.yaml").write_text(text)


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A bag of three files."""
    folder = tmp_path / "bag"
    folder.mkdir()
    for number in range(3):
        other = write(tmp_path / f"part{number}", [3 * number + 1, 3 * number + 2])
        (other / f"part{number}.mcap").rename(folder / f"bag_{number}.mcap")
    return folder


def test_files_that_the_metadata_does_not_name_are_told(split: Path):
    name_files(split, "[bag_0.mcap, bag_1.mcap]")
    with open_bag(split) as bag:
        assert len(list(bag)) == 4
        assert bag.losses == ["bag: bag_2.mcap is left out, because metadata.yaml does not name it"]


@pytest.mark.parametrize("names", ["[]", "", "[old_0.mcap, old_1.mcap]", "['', '.', '..', '/']"])
def test_metadata_that_names_no_file_of_the_folder(split: Path, names):
    name_files(split, names)
    assert times(split) == [1, 2, 4, 5, 7, 8]


@pytest.mark.parametrize("named", ["bag_0.mcap", "bag_0.mcap.zstd", None])
@pytest.mark.parametrize("there", ["plain", "packed", "both"])
def test_a_file_that_was_packed_or_unpacked_by_hand(tmp_path: Path, named, there):
    folder = write(tmp_path / "bag", [1, 2])
    plain, packed = folder / "bag_0.mcap", folder / "bag_0.mcap.zstd"
    (folder / "bag.mcap").rename(plain)
    (folder / "metadata.yaml").unlink()
    if named:
        name_files(folder, f"[{named}]")
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    if there == "packed":
        plain.unlink()
    elif there == "plain":
        packed.unlink()
    with open_bag(folder) as bag:
        assert len(list(bag)) == 2
        assert bag.losses == []


@pytest.mark.parametrize(
    ("qos", "latched"),
    [
        ("", False),
        ("- history: 1\n  depth: 1\n", False),
        ("- durability: 1\n", True),
        ("- durability: transient_local\n", True),
        ('[{"durability": "transient_local"}]', True),
        ("- durability: 2\n", False),
        ("reliable", False),
        ("- [", False),
        ("7", False),
        (None, False),
        (b"\xff", False),
    ],
)
def test_odd_quality_of_service(tmp_path: Path, qos, latched):
    path = write(tmp_path / "bag", [1, 2, 3], storage="sqlite3")
    with closing(sqlite3.connect(path / "bag.db3")) as database:
        database.execute("PRAGMA writable_schema=ON")
        database.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')")
        database.commit()
    with closing(sqlite3.connect(path / "bag.db3")) as database:
        database.execute("UPDATE topics SET offered_qos_profiles = ?", (qos,))
        database.commit()
    with open_bag(path) as bag:
        assert [topic.latched for topic in bag.topics] == [latched]
        assert len(list(bag)) == 3


def test_a_schema_of_several_lines_that_is_damaged_is_told_on_one(tmp_path: Path):
    path = write(tmp_path / "bag", [1], storage="sqlite3") / "bag.db3"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema=ON")
        # SQLite quotes the name.
        database.execute("UPDATE sqlite_master SET name = 'EY,\n  )', sql = 'CREATE TABLE EY('")
        database.commit()
    with pytest.raises(
        BagError, match=r"bag\.db3 is not an SQLite bag, or it is damaged: "
    ) as told:
        open_bag(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_message_over_the_limit_is_left_out_with_a_note(tmp_path: Path, storage):
    with BagWriter(path=tmp_path / "bag", storage=storage) as bag:
        for second, size in ((1, 1), (2, 40), (3, 1)):
            bag.write("/a", make_image(second, size), second * SECOND, IMAGE)
    with open_bag(tmp_path / "bag", limits=Limits(message_bytes=1000)) as bag:
        assert [record.time_ns // SECOND for record in bag] == [1, 3]
        (note,) = bag.losses
        assert "/a at 2000000000 ns" in note and "message_bytes" in note
    assert times(tmp_path / "bag") == [1, 2, 3]


def test_a_chunk_over_the_limit_is_too_large_and_not_damaged(tmp_path: Path):
    path = write(tmp_path / "bag", [1, 2])
    with open_bag(path, limits=Limits(chunk_bytes=10)) as bag:
        assert list(bag) == []
        assert any("too large" in note and "chunk_bytes" in note for note in bag.losses)
        assert not any("damaged" in note for note in bag.losses)
