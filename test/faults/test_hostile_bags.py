"""Bags that others made to do harm: nothing is deleted, and what they cost is bounded."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import tempfile
import time
import tracemalloc
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import zstandard
from bag_messages import IMAGE
from faults import fault, repeats
from hostile_bags import SECOND, name_super_journal, raw_image, tear, write_bag, write_mcap

from upsnet_ros.bags.messages import MessageTypes
from upsnet_ros.bags.reader import open_bag
from upsnet_ros.bags.storage import Definition, Limits
from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.cli import main
from upsnet_ros.errors import BagError


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def _snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _forged(folder: Path, *, name: str = "{victim}") -> tuple[Path, Path]:
    """A bag whose journal names a file of the user, and that file."""
    victim = folder / "thesis.tex"
    victim.write_text("years of work")
    file = write_bag(folder / "bag", storage="sqlite3", count=20)
    name_super_journal(tear(file), name.format(victim=victim))
    return file, victim


@fault(
    tried="A .db3 file with a forged journal that names a file of the user (a super-journal, which"
    " SQLite deletes), opened by `upsnet bag info`, `evaluate` and `replay`",
    often="{cases} commands",
    happens="No file is deleted, created or changed; what the bag holds is read, and `losses` says"
    " that its journal was not used",
)
@pytest.mark.parametrize("command", ["bag info", "evaluate --bag", "replay --topic /none"])
def test_a_journal_that_names_another_file(tmp_path, temporary, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    file, victim = _forged(tmp_path)
    with closing(sqlite3.connect(file)) as database:
        database.execute("SELECT count(*) FROM messages").fetchone()
    assert not victim.exists(), "SQLite itself would not do any harm"
    shutil.rmtree(file.parent)
    file, victim = _forged(tmp_path)
    before = _snapshot(tmp_path)
    with pytest.raises(SystemExit):
        main([*command.split(), str(file.parent)])
    assert _snapshot(tmp_path) == before
    with open_bag(file) as bag:
        assert len(list(bag)) == 20
        assert "journal names another file" in bag.losses[-1]
    assert list(temporary.glob("upsnet_bag_*")) == []


@fault(
    tried="Such a journal under a relative name, or reached through a link",
    often="{cases} ways",
    happens="As above",
)
@pytest.mark.parametrize("link", ["none", "bag", "journal"])
@pytest.mark.parametrize("name", ["{victim}", "thesis.tex", "./bag/../thesis.tex"])
def test_names_and_links_of_journals(tmp_path, temporary, monkeypatch, name, link):
    monkeypatch.chdir(tmp_path)
    file, _ = _forged(tmp_path, name=name)
    opened = file
    if link == "bag":
        opened = tmp_path / "link.db3"
        opened.symlink_to(file)
    elif link == "journal":
        journal = file.with_name(file.name + "-journal")
        elsewhere = tmp_path / "elsewhere"
        journal.rename(elsewhere)
        journal.symlink_to(elsewhere)
    before = _snapshot(tmp_path)
    with open_bag(opened) as bag:
        assert len(list(bag)) == 20
        assert "journal names another file" in bag.losses[-1]
    assert _snapshot(tmp_path) == before


@fault(
    tried="A .db3 file with the journal that a killed recorder leaves",
    often="once",
    happens="What was complete is read from a repaired copy; the files stay as they are",
)
def test_an_honest_journal_is_still_rolled_back(tmp_path, temporary):
    file = write_bag(tmp_path / "bag", storage="sqlite3", count=20)
    with open_bag(file) as bag:
        images = [record.raw for record in bag]
    tear(file)
    before = _snapshot(tmp_path)
    with open_bag(file) as bag:
        assert [record.raw for record in bag] == images
        assert bag.losses == [
            "bag.db3: it was not closed; messages that were not yet written are lost"
        ]
    assert _snapshot(tmp_path) == before


@fault(
    tried="A write-ahead log beside a .db3 file",
    often="once",
    happens="It is read; the files stay as they are",
)
def test_a_write_ahead_log_is_still_read(tmp_path, temporary):
    file = write_bag(tmp_path / "bag", storage="sqlite3", count=3)
    other = tmp_path / "other"
    other.mkdir()
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("UPDATE messages SET timestamp = timestamp + 5")
        database.commit()
        for path in file.parent.glob("bag.db3*"):
            if not path.name.endswith("-shm"):
                shutil.copyfile(path, other / path.name)
    before = _snapshot(tmp_path)
    with open_bag(other / file.name) as bag:
        assert [record.time_ns % 10 for record in bag] == [5, 5, 5]
    assert _snapshot(tmp_path) == before


_HOST = "demo_msgs/msg/Host"
_RULE = "=" * 80 + "\n"
MIB = 1 << 20
SMALL = Limits(
    metadata_bytes=10_000,
    unpacked_bytes=MIB,
    unpacked_ratio=1,
    message_bytes=MIB,
    chunk_bytes=2 * MIB,
    memory_bytes=4 * MIB,
)
_LEVELS = "".join(f"l{i + 1}: &l{i + 1} [{', '.join([f'*l{i}'] * 9)}]\n" for i in range(30))
_MERGES = "".join(f"m{i + 1}: &m{i + 1} {{<<: [{', '.join([f'*m{i}'] * 9)}]}}\n" for i in range(30))
_NAMES = "rosbag2_bagfile_information:\n  relative_file_paths: "
METADATA = {
    "aliases for names": f"l0: &l0 [x]\n{_LEVELS}{_NAMES}[*l30]\n",
    "aliases for the list": f"l0: &l0 [x]\n{_LEVELS}{_NAMES}*l30\n",
    "merge keys": f"m0: &m0 {{a: b}}\n{_MERGES}{_NAMES}[{{<<: *m30}}]\n",
    "an alias of itself": "&a\nrosbag2_bagfile_information: *a\n",
    "deep nesting": f"{_NAMES}{'[' * 4000}\n",
    "deep blocks": f"{_NAMES}\n{' '.join(['-'] * 4000)} x\n",
    "size": f"{_NAMES}[{'x, ' * 10_000}]\n",
    "no text": f"{_NAMES}[[bag.mcap], {{a: b}}]\n",
    "a name": f"{_NAMES}bag.mcap\n",
    "no mapping": "[1, 2]\n",
    "nothing": "",
    "a tag that runs code": f"{_NAMES}!!python/object/apply:os.system ['true']\n",
    "control characters": "\x00\x01",
    "no UTF-8": b"\xff\xfe\x00",
}


@fault(
    tried="A metadata.yaml with bombs of aliases or merge keys, deep nesting, absurd size, tags"
    " that run code, or lists where text is meant",
    often="{cases} kinds",
    happens="Neither time nor memory grows with what it claims; the bag's files are read without"
    " it, and `losses` says so",
)
@pytest.mark.parametrize("kind", METADATA)
def test_metadata_that_explodes(tmp_path, kind):
    file = write_bag(tmp_path / "bag")
    text = METADATA[kind]
    file.with_name("metadata.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with open_bag(file.parent, limits=SMALL) as bag:
        assert [record.time_ns for record in bag] == [SECOND, 2 * SECOND, 3 * SECOND]
        (line,) = bag.losses
        assert "metadata.yaml is unreadable" in line or "is missing" in line
        assert "\n" not in line and len(line) < 200


@fault(
    tried="A pipe in place of metadata.yaml or of a bag's file, or a device as its file",
    often="{cases} cases",
    happens="It is not opened, which could wait for ever; one line names it",
)
@pytest.mark.parametrize("what", ["metadata.yaml", "bag.mcap", "link.mcap", "single"])
def test_pipes_and_devices(tmp_path, what):
    file = write_bag(tmp_path / "bag")
    if what == "single":
        os.mkfifo(tmp_path / "pipe.db3")
        with pytest.raises(BagError, match=r"pipe\.db3 is not a file"):
            open_bag(tmp_path / "pipe.db3")
        return
    path = file.with_name(what)
    path.unlink(missing_ok=True)
    if what == "link.mcap":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    if what == "bag.mcap":
        with pytest.raises(BagError, match=r"holds no \.mcap"):
            open_bag(file.parent)
    else:
        with open_bag(file.parent) as bag:
            assert len(list(bag)) == 3


def _packed_file(path: Path, suffix: str) -> Path:
    file = path / f"bomb{suffix}.zstd"
    zeros = zstandard.compress(bytes(8 * MIB))
    file.write_bytes(zeros * 3)  # several frames, as parallel compressors write
    return file


def _peak(action) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@fault(
    tried="A small .zstd file that decompresses to a disk full",
    often="{cases} kinds",
    happens="It is refused at the limit with a line that says how to raise it; nothing is left on"
    " the disk",
)
@pytest.mark.parametrize("suffix", [".db3", ".mcap"])
def test_a_file_that_unpacks_to_a_disk_full(tmp_path, temporary, suffix):
    file = _packed_file(tmp_path, suffix)

    def look():
        with pytest.raises(BagError, match=r"more than 1048576 bytes.*unpacked_bytes"):
            open_bag(file, limits=SMALL)

    assert _peak(look) < 6 * MIB
    assert list(temporary.iterdir()) == []
    # A raised limit lets it through to the reader, who finds zeros.
    with pytest.raises(BagError, match=r"is not an SQLite bag|is no MCAP file"):
        open_bag(file, limits=Limits(unpacked_bytes=24 * MIB))


@fault(
    tried="A small message that decompresses to gigabytes",
    often="{cases} storages",
    happens="Reading ends at it with a line that names topic, time and limit",
)
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_message_that_unpacks_to_gigabytes(tmp_path, storage):
    with BagWriter(path=tmp_path / "bag", storage=storage) as bag:
        bag.write("/a", raw_image(1), SECOND, IMAGE)
        bag.write("/a", zstandard.compress(bytes(64 * MIB)), 2 * SECOND, IMAGE)

    def look():
        with open_bag(tmp_path / "bag", limits=SMALL) as bag:
            records = iter(bag)
            next(records)
            with pytest.raises(BagError, match=r"/a at 2000000000 ns.*message_bytes"):
                next(records)

    assert _peak(look) < 8 * MIB


@fault(
    tried="A message whose bytes hold millions of messages or texts, each a hundred times as large"
    " in memory",
    often="{cases} definitions",
    happens="It is refused before anything is made of it; numbers and few large ones are read",
)
@pytest.mark.parametrize(
    ("definition", "refused"),
    [
        (f"demo_msgs/One[] x\n{_RULE}MSG: demo_msgs/One\nuint8 x\n", True),
        (f"demo_msgs/Two x\n{_RULE}MSG: demo_msgs/Two\nstring[] x\n", True),
        ("uint8[] x\n", False),
        (f"demo_msgs/Big[] x\n{_RULE}MSG: demo_msgs/Big\nfloat64[1000] x\n", False),
    ],
)
def test_a_message_of_millions_of_objects(definition, refused):
    types = MessageTypes(
        [Definition(_HOST, "ros2msg", definition)], replace(SMALL, message_objects=1000)
    )
    raw = bytes([0, 1, 0, 0]) + bytes(8000)
    if refused:
        with pytest.raises(BagError, match="message_objects"):
            types.deserialize(raw, _HOST)
    else:
        with suppress(BagError):
            assert len(types.deserialize(raw, _HOST).x) == 0


@fault(
    tried="A small MCAP chunk that decompresses to gigabytes, with an index and without",
    often="{cases} kinds",
    happens="It is left out with a line that says how to raise the limit; the others are read",
)
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_chunk_that_unpacks_to_gigabytes(tmp_path, compression, index):
    file = write_mcap(tmp_path / "a.mcap", compression=compression, data=bytes(32 * MIB))
    if not index:
        file.write_bytes(file.read_bytes()[:-20])

    def look():
        with open_bag(file, limits=SMALL) as bag:
            assert list(bag) == []
            assert any("chunk_bytes" in line for line in bag.losses)

    assert _peak(look) < 12 * MIB
    with open_bag(file) as bag:
        assert [len(record.raw) for record in bag] == [32 * MIB]


@fault(
    tried="Chunks that are small in the file, all of the same time, which all have to be in memory",
    often="once",
    happens="As many as the limit allows are read; the others are left out with a line",
)
def test_chunks_of_the_same_time(tmp_path):
    file = write_mcap(
        tmp_path / "a.mcap", chunks=40, compression="zstd", data=bytes(MIB), overlap=True
    )

    def look():
        with open_bag(file, limits=SMALL) as bag:
            assert 3 <= len(list(bag)) < 10
            assert any("memory_bytes" in line for line in bag.losses)

    assert _peak(look) < 12 * MIB
    with open_bag(file) as bag:
        assert len(list(bag)) == 40


@fault(
    tried="An MCAP index that names one chunk 400 times",
    often="once",
    happens="The index is not used; each message is read once",
)
def test_a_chunk_that_is_indexed_again_and_again(tmp_path):
    file = write_mcap(tmp_path / "a.mcap", chunks=2, indexed=400)
    with open_bag(file) as bag:
        assert [record.time_ns for record in bag] == [SECOND, 2 * SECOND]
        assert "several chunks" in bag.losses[0]


_CHAIN = _RULE.join(
    ["demo_msgs/L0 a\n", *(f"MSG: demo_msgs/L{i}\ndemo_msgs/L{i + 1} a\n" for i in range(900))]
)
_DIAMOND = _RULE.join(
    [
        "demo_msgs/L0 a\ndemo_msgs/L0 b\n",
        *(f"MSG: demo_msgs/L{i}\ndemo_msgs/L{i + 1} a\ndemo_msgs/L{i + 1} b\n" for i in range(40)),
        "MSG: demo_msgs/L40\nuint8 x\n",
    ]
)
DEFINITIONS = {
    "strings": ("ros2msg", "string[60000000] x\n"),
    "messages": ("ros2msg", f"demo_msgs/One[60000000] x\n{_RULE}MSG: demo_msgs/One\nuint8 x\n"),
    "many arrays": ("ros2msg", "".join(f"string[100] x{i}\n" for i in range(100))),
    "itself": ("ros2msg", "demo_msgs/Host x\n"),
    "itself in an array": ("ros2msg", "demo_msgs/Host[] x\n"),
    "each other": ("ros2msg", f"demo_msgs/B b\n{_RULE}MSG: demo_msgs/B\ndemo_msgs/Host a\n"),
    "missing": ("ros2msg", "demo_msgs/Nowhere x\n"),
    "a chain": ("ros2msg", _CHAIN),
    "a diamond": ("ros2msg", _DIAMOND),
    "length": ("ros2msg", "uint8 x\n" + "#" * (2 << 20)),
    "no grammar": ("ros2msg", "uint8[[[ x\n"),
    "a negative length": ("ros2msg", "string[-5] x\nuint8[-5] y\n"),
    "IDL that nests": ("ros2idl", "module a { " * 3000),
    "IDL without sense": ("ros2idl", "struct X { long double y; };"),
    "IDL of other types": ("ros2idl", "module a { module msg { struct H { wstring s; }; }; };"),
}


@fault(
    tried="A message definition with absurd arrays, that holds itself or what is missing, nests"
    " deeply, or is no definition",
    often="{cases} kinds",
    happens="`losses` says in one line why it is unusable; other types are read",
)
@pytest.mark.parametrize("kind", DEFINITIONS)
def test_definitions_that_explode(tmp_path, kind):
    encoding, text = DEFINITIONS[kind]
    begin = time.process_time()
    types = MessageTypes([Definition(_HOST, encoding, text)])
    for name in [name for name in (_HOST, "a/msg/H") if name in types]:
        with pytest.raises(BagError, match="are no"):
            types.deserialize(bytes([0, 1, 0, 0]), name)
    assert "sensor_msgs/msg/Image" in types
    assert time.process_time() - begin < 20, "it is in proportion to its size"
    for line in types.unusable:
        assert "\n" not in line and len(line) < 500
    assert types.unusable or kind in (
        "IDL of other types",
        "IDL without sense",
        "a negative length",
    )


@fault(
    tried="A topic whose name is no UTF-8, messages in another encoding, chunks of an unknown"
    " compression, an unknown encoding of definitions",
    often="once each",
    happens="Everything else is read; `losses` names what is not",
)
def test_names_and_encodings_of_other_kinds(tmp_path):
    with open_bag(write_mcap(tmp_path / "name.mcap", topic=b"/\xff\xfe", chunks=2)) as bag:
        assert [topic.name for topic in bag.topics] == ["/\ufffd\ufffd"]
        assert len(list(bag)) == 2
    with open_bag(write_mcap(tmp_path / "json.mcap", encoding="json")) as bag:
        assert list(bag) == []
        assert bag.losses == ["json.mcap: /a is encoded as 'json', not as cdr: left out"]
    with open_bag(write_mcap(tmp_path / "snappy.mcap", compression="snappy")) as bag:
        assert list(bag) == []
        assert "'snappy' is unknown" in bag.losses[0]
    file = write_bag(tmp_path / "bag", storage="sqlite3")
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE message_definitions SET encoding = 'odd'")
        database.execute("UPDATE topics SET name = CAST(x'2fff' AS TEXT)")
        database.commit()
    with open_bag(file) as bag:
        assert [(topic.name, topic.count) for topic in bag.topics] == [("/\ufffd", 3)]
        assert len([record.message for record in bag]) == 3


@fault(
    tried="A .db3 file whose tables are views, virtual, or have computed columns, which could run"
    " for ever; whose columns hold other types; that has no tables",
    often="{cases} kinds",
    happens="Refused with one line that names the file, or read without what makes no sense",
)
@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE messages RENAME TO hidden; CREATE VIEW messages AS WITH RECURSIVE c(x) AS"
        " (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x id, 1 topic_id, x timestamp, x'' data"
        " FROM c",
        "DROP TABLE messages; CREATE VIRTUAL TABLE messages USING fts5(topic_id, timestamp, data)",
        "ALTER TABLE messages DROP COLUMN data; ALTER TABLE messages ADD COLUMN data AS"
        " (zeroblob(1000000000))",
        "DROP TABLE topics",
        "UPDATE topics SET name = 7, type = NULL",
        "UPDATE messages SET timestamp = 'never'",
        "UPDATE messages SET data = 'text'",
        "UPDATE messages SET data = NULL",
        "UPDATE messages SET topic_id = 'x'",
        "DROP TABLE message_definitions; CREATE VIEW message_definitions AS SELECT 1 id, 'a'"
        " topic_type, 'ros2msg' encoding, 'x' encoded_message_definition",
    ],
)
def test_databases_that_run_or_make_no_sense(tmp_path, statement):
    file = write_bag(tmp_path / "bag", storage="sqlite3")
    with closing(sqlite3.connect(file)) as database:
        # The types of columns are no rule in SQLite, but NOT NULL is one.
        script = "".join(
            f"CREATE TABLE free_{name} AS SELECT * FROM {name}; DROP TABLE {name};"
            f"ALTER TABLE free_{name} RENAME TO {name};"
            for name in ("topics", "messages")
        )
        database.executescript(script + statement)
    try:
        with open_bag(file) as bag:
            assert len(list(bag)) <= 3
            assert all("bag.db3" in line for line in bag.losses if "definition" not in line)
    except BagError as error:
        assert str(file) in str(error)
        assert "\n" not in str(error)


@fault(
    tried="Limits set by UPSNET_BAG_LIMITS, well formed or not",
    often="{cases} values",
    happens="Taken by every command, or refused with one line that lists them",
)
@pytest.mark.parametrize(
    "value",
    [
        "message_bytes=1k,chunk_bytes=1M",
        "message_bytes",
        "x=1",
        "message_bytes=-1",
        "message_bytes=0",
    ],
)
def test_limits_of_the_environment(tmp_path, monkeypatch, value):
    monkeypatch.setenv("UPSNET_BAG_LIMITS", value)
    file = write_bag(tmp_path / "bag", storage="sqlite3", size=40)
    if value.startswith("message_bytes=1k"):
        with open_bag(file) as bag:
            assert list(bag) == []
            assert "message_bytes" in bag.losses[0]
    else:
        with pytest.raises(BagError, match=r"UPSNET_BAG_LIMITS|at least 1"):
            open_bag(file)


@fault(
    tried="The documented limits of bags",
    often="once",
    happens="docs/bags.md lists each with its default",
)
def test_the_limits_are_documented():
    text = (Path(__file__).resolve().parents[2] / "docs" / "bags.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+(?: [KMG]iB)?) \|", text, re.M))
    units = {"KiB": 1 << 10, "MiB": MIB, "GiB": 1 << 30}

    def number(value: str) -> int:
        amount, _, unit = value.partition(" ")
        return int(amount) * units.get(unit, 1)

    assert {name: number(value) for name, value in rows.items()} == asdict(Limits())


@fault(
    tried="MCAP and SQLite bags with bytes overwritten, removed, repeated or cut off at random",
    often="{count} bags",
    happens="What is whole is read, or one line says what is wrong; no other error, and each is"
    " read within seconds",
)
@pytest.mark.parametrize("count", repeats(60, 20_000))
def test_bags_with_random_damage(tmp_path, count):
    rng = random.Random(count)
    seeds = {
        "a.db3": write_bag(tmp_path / "sqlite", storage="sqlite3").read_bytes(),
        "b.mcap": write_bag(tmp_path / "mcap").read_bytes(),
        "c.mcap": write_mcap(tmp_path / "zstd.mcap", chunks=3, compression="zstd").read_bytes(),
        "d.mcap": write_mcap(tmp_path / "lz4.mcap", chunks=3, compression="lz4").read_bytes(),
    }
    for _ in range(count):
        name = rng.choice(list(seeds))
        file = tmp_path / name
        file.write_bytes(_damaged(bytearray(seeds[name]), rng))
        begin = time.process_time()
        try:
            with open_bag(file, start=rng.choice([None, 0.5])) as bag:
                for record in bag:
                    with suppress(BagError):
                        _ = record.message
                assert not any("\n" in line for line in bag.losses)
        except BagError as error:
            assert name in str(error)
            assert "\n" not in str(error)
        assert time.process_time() - begin < 20


def _damaged(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 2, 20])):
        # Index and summary are at the end.
        place = rng.randrange(max(0, len(data) - rng.choice([900, len(data)])), len(data))
        kind = rng.choice(["byte", "byte", "number", "removed", "repeated", "cut"])
        if kind == "byte":
            data[place] = rng.randrange(256)
        elif kind == "number":
            value = rng.choice([0, (1 << 64) - 1, (1 << 63) - 1, rng.randrange(1 << 64)])
            data[place : place + 8] = value.to_bytes(8, "little")
        elif kind == "removed":
            del data[place : place + rng.randrange(1, 50)]
        elif kind == "repeated":
            data[place:place] = data[max(0, place - 60) : place]
        elif rng.random() < 0.1:
            del data[place:]
        data = data or bytearray(1)
    return bytes(data)


@fault(
    tried="Message definitions of words in any order, in ROS's language and in IDL",
    often="{count} definitions",
    happens="Each is taken, or one line says what is wrong with it",
)
@pytest.mark.parametrize("count", repeats(60, 20_000))
def test_definitions_of_words_in_any_order(count):
    rng = random.Random(count)
    for _ in range(count):
        text = "".join(
            rng.choice(_WORDS) + rng.choice(["", " ", "\n"]) for _ in range(rng.randrange(1, 40))
        )
        name = rng.choice(["demo/msg/Host", "", "a\nb", "None", "1/2", "demo/msg/class"])
        types = MessageTypes([Definition(name, rng.choice(["ros2msg", "ros2idl"]), text)])
        assert "\n" not in "".join(types.unusable)
        for known in (name, "demo/msg/A"):
            if known in types:
                with suppress(BagError):
                    types.deserialize(bytes([0, 1, 0, 0]) + bytes(64), known)


_TEXT = """uint8 string wstring float64 int128 [ ] <= 5 -1 99999999999 x y Header demo/A = 'a' #
None class import self MSG: sequence< struct { } ; module const union :: octet "" ä"""
_WORDS = [*_TEXT.split(), "uint8 x\n", "demo/A a\n", f"{_RULE}MSG: demo/A\n", "string[3] s\n", "\\"]
