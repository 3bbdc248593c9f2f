"""Command lines of the last release still work and name their replacement."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from upsnet_ros.cli.commands import app, load_command
from upsnet_ros.cli.old_spellings import RULES, modernise


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("evaluate --gt-json a --pred-json b --ap", "files --gt-json a --pred-json b --ap"),
        ("evaluate --processes 2 --pred-json=b --gt-json=a", "files --processes 2 --pred-json=b"
         " --gt-json=a"),
        ("evaluate --dataset scenes --limit 4", "dataset scenes --limit 4"),
        ("evaluate --limit 4 --dataset=coco --root r", "dataset --limit 4 coco --root r"),
        ("evaluate --bag a --gt-bag b --bag c", "bags a --gt-bag b c"),
        ("evaluate --bag a --dataset coco --weights w", "bags a --taxonomy coco --weights w"),
        ("evaluate a b --json out", "bags a b --json out"),
        ("evaluate --cluster ray a b", "bags --cluster ray a b"),
        ("bench", "stages"),
        ("bench --size 64x64 --iterations 2", "stages --size 64x64 --iterations 2"),
        ("bench --compare --only race", "goals --only race"),
        ("bench --json f --compare", "goals --json f"),
        ("bench --node --rates 40", "node --rates 40"),
    ],
)  # fmt: skip
def test_old_spellings_become_new_ones(old: str, new: str) -> None:
    command, *arguments = old.split()
    found, note = modernise(command, arguments)
    assert found == new.split()
    assert f"`upsnet {command} {found[0]}`" in note
    assert "\n" not in note
    assert modernise(command, found) == (found, "")


@pytest.mark.parametrize(
    "line",
    [
        "evaluate bags a", "evaluate", "evaluate --help", "evaluate --bogus", "bench stage",
        "bench --help", "bench --size 64x64 --help-all", "bench goals --only race", "compare a b",
    ],
)  # fmt: skip
def test_other_command_lines_stay(line: str) -> None:
    command, *arguments = line.split()
    assert modernise(command, arguments) == (arguments, "")


@pytest.mark.parametrize("old", ["--topic /a", "--topic=/a"])
def test_an_option_with_a_new_name_is_renamed(old: str) -> None:
    found, note = modernise("play", ["x.mp4", *old.split(), "--loop"])
    assert found == ["x.mp4", *old.replace("--topic", "--image-topic").split(), "--loop"]
    assert note.startswith("note: --topic is deprecated") and "use --image-topic" in note
    assert modernise("play", found) == (found, "")
    assert modernise("replay", ["bag", *old.split()]) == (["bag", *old.split()], "")


def test_every_rule_leads_to_a_subcommand_that_exists() -> None:
    for name, (subcommands, rules) in RULES.items():
        assert set(load_command(name).commands) == subcommands
        assert {rule.subcommand for rule in rules} <= subcommands


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("evaluate --gt-json /none/a --pred-json /none/b", "evaluate files --gt-json /none/a"
         " --pred-json /none/b"),
        ("evaluate --dataset coco", "evaluate dataset coco"),
        ("evaluate --bag /none/a", "evaluate bags /none/a"),
        ("bench --variant r1000", "bench stages --variant r1000"),
        ("bench --compare --parity /none/a", "bench goals --parity /none/a"),
        ("bench --node --rates ten", "bench node --rates ten"),
        ("bench --bogus", "bench stages --bogus"),
    ],
)  # fmt: skip
def test_one_line_on_stderr_says_what_replaces_them(old: str, new: str) -> None:
    was, now = (CliRunner().invoke(app, line.split()) for line in (old, new))
    note, rest = was.stderr.split("\n", 1)
    assert note.startswith("note: ") and "deprecated" in note
    assert "deprecated" not in now.stderr
    assert (was.exit_code, was.stdout, rest) == (now.exit_code, now.stdout, now.stderr)
