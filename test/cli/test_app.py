from __future__ import annotations

import ast
import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import upsnet_ros
from upsnet_ros import errors
from upsnet_ros.cli.commands import COMMANDS, EXTRAS, app, load_command
from upsnet_ros.errors import BagError, OutputError, ProcessError, UpsnetError

ROOT = Path(__file__).parents[2]

#: Runs the command and tells on stdout which of the heavy modules it imported.
CALL = """
import atexit, sys
atexit.register(lambda: print("imported:", *sorted({"torch", "rclpy", "cv2"} & set(sys.modules))))
from upsnet_ros.cli import main
main()
"""


def upsnet(*arguments, code=CALL):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )


def test_help_lists_every_command_and_imports_none():
    done = upsnet("--help")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "imported:"
    for name, command in COMMANDS.items():
        assert name in done.stdout
        assert command.help in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists(name):
    assert callable(load_command(name))


def test_the_version_imports_nothing_heavy():
    done = upsnet("--version")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"upsnet_ros {upsnet_ros.__version__}", "imported:"]


def test_the_shell_completes_names_of_commands(monkeypatch):
    monkeypatch.setenv("_UPSNET_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "upsnet re")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert upsnet().stdout.split()[:2] == ["record", "replay"]


def test_a_misspelt_command():
    done = upsnet("nod")
    assert done.returncode == 2
    assert "Did you mean" in done.stderr


@pytest.mark.parametrize("command", ["bench", "evaluate", "bag", "weights"])
def test_a_misspelt_subcommand_lists_those_that_exist(command):
    done = upsnet(command, "foo")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "'foo'" in done.stderr
    for name in load_command(command).commands:
        assert name in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_paragraphs_of_a_help_reflow(name):
    real = load_command(name)
    for command in (real, *getattr(real, "commands", {}).values()):
        assert command.help and not re.search(r"\S\n\S", command.help)


def test_the_help_of_the_node_fits_on_a_screen_of_36_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert len(upsnet("node", "--help", code=CALL).stdout.splitlines()) - 1 <= 36


def test_help_all_of_the_whole_command_is_its_help():
    assert upsnet("--help-all").stdout == upsnet("--help").stdout != ""


def test_ros_arguments_where_they_mean_nothing():
    done = upsnet("bench", "--ros-args", "-p", "a:=1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: `upsnet bench` does not start a ROS process")


def test_a_ros_command_without_ros():
    # None in sys.modules makes Python say that there is no such module.
    done = upsnet("node", code="import sys; sys.modules['rclpy'] = None" + CALL)
    assert done.returncode == 1
    assert done.stderr.startswith("error: `upsnet node` needs rclpy")
    assert "setup.bash" in done.stderr


def test_a_command_without_its_extra(tmp_path):
    road = {"id": 7, "category_id": 7, "iscrowd": 0}
    row = {"image_id": "a", "file_name": "a.png", "segments_info": [road]}
    classes = [{"id": 7, "name": "road", "isthing": 0, "color": [0, 0, 0]}]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"annotations": [row], "categories": classes}))
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth/a.png").touch()
    files = ("--gt-json", str(path), "--pred-json", str(path), "--processes", "1")
    code = "import sys; sys.modules['kornia_rs'] = None" + CALL
    done = upsnet("evaluate", "files", *files, code=code)
    assert done.returncode == 1
    assert done.stderr.startswith("error: `upsnet evaluate` needs kornia_rs")
    assert "pip install '.[evaluate]'" in done.stderr


def extras_of_setup():
    """Names of pip packages by extra, as setup.py lists them."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    (call,) = (node for node in ast.walk(tree) if isinstance(node, ast.Dict) and "train" in
               [getattr(key, "value", None) for key in node.keys])  # fmt: skip
    return {
        extra: [re.split(r"[<>=]", line)[0] for line in lines]
        for extra, lines in ast.literal_eval(call).items()
    }


PACKAGES = {
    "PIL": "pillow", "yaml": "pyyaml", "kornia_rs": "kornia-rs", "pynvml": "nvidia-ml-py",
}  # fmt: skip


def test_the_advice_names_the_extra_that_brings_a_module():
    extras = extras_of_setup()
    for module, names in EXTRAS.items():
        brings = {name for name, wheels in extras.items() if PACKAGES.get(module, module) in wheels}
        assert set(names) == brings, module


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        ("bench", "pycocotools", "evaluate"),
        ("train", "pycocotools", "train"),
        ("train", "pydantic", "train"),
        ("evaluate", "msgspec", "cluster"),
        ("evaluate", "rosbags.rosbag2", "bags"),
    ],
)
def test_the_advice_depends_on_what_is_missing(command, missing, extra, monkeypatch):
    def importing(name):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(
        "upsnet_ros.cli.commands.importlib", SimpleNamespace(import_module=importing)
    )
    done = CliRunner().invoke(app, [command, *(["stages"] if command == "bench" else [])])
    assert done.exit_code == 1
    assert f"pip install '.[{extra}]'" in done.stderr
    assert "upsnet_ros[" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_text_names_a_package_index_entry_of_ours():
    """Nobody holds the name upsnet_ros there: whoever registers it would be installed."""
    for folder in ("upsnet_ros", "docs", "README.md", "examples", "config", "launch"):
        root = ROOT / folder
        for path in [root] if root.is_file() else root.rglob("*"):
            if path.suffix in (".py", ".md", ".yaml"):
                text = path.read_text()
                assert not re.search(r"upsnet_ros\[|pip install upsnet", text), path


def failing(monkeypatch, error):
    """What a command prints that raises ``error``."""

    def command():
        raise error

    modules = SimpleNamespace(import_module=lambda _: SimpleNamespace(doctor=command))
    monkeypatch.setattr("upsnet_ros.cli.commands.importlib", modules)
    return CliRunner().invoke(app, ["doctor"])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (BagError("a.bag is damaged"), "error: a.bag is damaged"),
        (OSError(errno.ENOENT, "No such file", "a/b"), "error: a/b: No such file"),
        (OSError(errno.EXDEV, "Cross-device", "a", None, "b"), "error: a -> b: Cross-device"),
        (OSError("no reason"), "error: no reason"),
        (OSError(errno.ENOSPC, "No space left"), "error: No space left"),
        (BagError("[red]a[/] \x1b[31mb\x07\u202e\r\nc"), "error: [red]a[/] [31mb c"),
    ],
)
def test_an_error_is_one_clean_line(error, line, monkeypatch):
    done = failing(monkeypatch, error)
    assert done.exit_code == 1
    assert done.stderr == line + "\n"
    assert done.stdout == ""


def test_details_follow_the_line(monkeypatch):
    error = ProcessError("`upsnet node` ended")
    error.details = "node.log ends:\n  | \x1b[31mlast"
    assert failing(monkeypatch, error).stderr.splitlines() == [
        "error: `upsnet node` ended", "node.log ends:", "  | [31mlast",
    ]  # fmt: skip


def test_ctrl_c_has_the_shells_exit_code_and_no_traceback(monkeypatch):
    done = failing(monkeypatch, KeyboardInterrupt())
    assert done.exit_code == 130
    assert "Traceback" not in done.output


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    assert isinstance(failing(monkeypatch, ZeroDivisionError()).exception, ZeroDivisionError)


@pytest.mark.parametrize(("sink", "reason"), [("/dev/full", "No space left"), (None, "")])
def test_output_that_cannot_be_written(sink, reason):
    command = [sys.executable, "-m", "upsnet_ros.cli", "--help"]
    if sink:
        with Path(sink).open("wb") as out:
            done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, timeout=240)
        code, errors = done.returncode, done.stderr.decode()
    else:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        errors = process.stderr.read().decode()
        process.stderr.close()
        code = process.wait(60)
    assert code == 1
    assert reason in errors
    assert len(errors.splitlines()) == (1 if sink else 0)


def test_every_exception_of_the_package_stands_in_one_file():
    for path in (ROOT / "upsnet_ros").rglob("*.py"):
        if path.name == "errors.py" and path.parent.name == "upsnet_ros":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bases = [ast.unparse(base) for base in node.bases]
                assert not any(base.endswith(("Error", "Exception")) for base in bases), path


def test_callers_may_catch_what_they_caught_before():
    for name in errors.__all__:
        kind = getattr(errors, name)
        if not isinstance(kind, type):
            continue  # a function
        assert issubclass(kind, UpsnetError)
        if kind not in (UpsnetError, OutputError):
            assert issubclass(kind, (ValueError, RuntimeError))
