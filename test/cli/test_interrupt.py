"""Ctrl-C while a command starts: the real processes, interrupted after chosen imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
UPSNET = [str(SCRIPTS / "upsnet")]
#: Nothing waits that long where things work, however busy the machine is.
SECONDS = 240
#: Interrupts its process at the first import after that of a module. From outside, a signal would
#: come whenever the machine lets it, after the end of a short command for one.
SITECUSTOMIZE = """
import os, pathlib, signal, sys

after, told = os.environ["INTERRUPT_AFTER"], pathlib.Path(os.environ["INTERRUPT_TOLD"])

def interrupt(event, arguments):
    spec = getattr(sys.modules.get(after), "__spec__", None)
    if event == "import" and spec is not None and not getattr(spec, "_initializing", False):
        if not told.exists():
            told.touch()
            signal.raise_signal(signal.SIGINT)

sys.addaudithook(interrupt)
"""


def interrupted(
    folder: Path, command: list[str], *, after: str, ignored: bool = False
) -> tuple[int, str]:
    """Send SIGINT once a module is imported; return the exit code and stderr."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    told = folder / "told"
    # A shell says what is ignored: Python code between fork and exec may wait for another thread.
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"] if ignored else []
    done = subprocess.run(
        [*ignoring, sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"PYTHONPATH": path, "INTERRUPT_AFTER": after, "INTERRUPT_TOLD": str(told)},
        timeout=SECONDS,
    )
    assert told.exists(), f"{after} was not imported, or nothing after it"
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("command", "after"),
    [
        ([*UPSNET, "node"], "inspect"),
        ([*UPSNET, "node"], "upsnet_ros.cli.old_spellings"),
        ([*UPSNET, "node"], "upsnet_ros.cli.commands"),
        ([*UPSNET, "node"], "upsnet_ros.node.parameters"),
        ([*UPSNET, "bag", "make", "/none"], "upsnet_ros.errors"),
        ([*UPSNET, "weights", "list"], "typer"),
        (["-m", "upsnet_ros.cli", "weights", "list"], "subprocess"),
        ([str(SCRIPTS / "upsnet_node")], "rclpy"),
        ([str(SCRIPTS / "upsnet_node")], "numpy"),
    ],
)
def test_ctrl_c_during_the_start_is_quiet(tmp_path, command, after):
    assert interrupted(tmp_path, command, after=after) == (130, "")


def test_a_background_process_goes_on_ignoring_ctrl_c(tmp_path):
    code, _ = interrupted(tmp_path, [*UPSNET, "--version"], after="typer", ignored=True)
    assert code == 0


#: A command that stops three times, says where, and waits for a line: while it works, while it
#: closes its files, and while the interpreter ends.
COMMAND = """
import atexit, os, subprocess, sys
import typer
from upsnet_ros import cli
from upsnet_ros.cli.commands import app, errors_as_one_line

def stop(word):
    print(word, flush=True)
    sys.stdin.readline()

@app.command("work")
def work(converted: bool = False, patient: bool = True) -> None:
    # On a machine that is busy the second one may come late.
    cli._SAME_SECONDS = 1e6 if patient else 0.0
    if not patient:
        print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)
    with errors_as_one_line("work"):
        try:
            stop("working")
        except KeyboardInterrupt:
            if converted:
                raise typer.Exit(1) from None
            raise
        finally:
            stop("closing")
            print("closed", flush=True)

atexit.register(stop, "ending")
cli.main()
"""


class Stopping:
    """The command as a process; leaving the context kills it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        script = folder / "command.py"
        script.write_text(COMMAND)
        self._process = subprocess.Popen(
            [sys.executable, str(script), "work", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._watchdog = threading.Timer(SECONDS, self._process.kill)

    def __enter__(self) -> Stopping:
        self._watchdog.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.communicate()

    def line(self) -> str:
        return self._process.stdout.readline().strip()

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def proceed(self) -> None:
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> tuple[int, str]:
        said = self._process.stderr.read()
        return self._process.wait(), said


@pytest.mark.parametrize("arguments", [(), ("--converted",)])
def test_ctrl_c_pressed_again_stops_neither_closing_nor_the_end(tmp_path, arguments):
    with Stopping(tmp_path, *arguments) as command:
        assert command.line() == "working"
        command.interrupt()
        for words in (["closing"], ["closed", "ending"]):
            assert [command.line() for _ in words] == words
            command.interrupt()
            command.proceed()
        assert command.end() == (130, "")


def test_ctrl_c_at_the_end_changes_nothing(tmp_path):
    with Stopping(tmp_path) as command:
        for words in (["working"], ["closing"], ["closed", "ending"]):
            assert [command.line() for _ in words] == words
            if words[-1] == "ending":
                command.interrupt()
            command.proceed()
        assert command.end() == (0, "")


def test_a_late_ctrl_c_ends_at_once_with_the_children(tmp_path):
    with Stopping(tmp_path, "--no-patient") as command:
        child = psutil.Process(int(command.line()))
        assert command.line() == "working"
        command.interrupt()
        assert command.line() == "closing"
        command.interrupt()
        assert command.end() == (130, "")
        assert not psutil.wait_procs([child], timeout=60)[1]


#: A command whose workers' server imports a module that takes its time.
WITH_WORKERS = """
import sys
from upsnet_ros.cli import main
from upsnet_ros.cli.commands import app, errors_as_one_line

@app.command("work")
def work() -> None:
    import slow_module
    from upsnet_ros.processes.task_pool import in_order
    with errors_as_one_line("work"):
        list(in_order(slow_module.make, [1, 2, 3], processes=2))

if __name__ == "__main__":
    main()
"""
SLOW_MODULE = """
import sys
if sys.argv[0] == "-c":
    print("importing", flush=True)
    sys.stdin.readline()
def make():
    return lambda task: task
"""


def test_ctrl_c_while_workers_start_is_quiet(tmp_path):
    """A terminal sends it to the workers too."""
    (tmp_path / "script.py").write_text(WITH_WORKERS)
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), "work"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        start_new_session=True,
    )
    watchdog = threading.Timer(SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    assert process.stdout.readline() == "importing\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130  # it does not wait for the import
    _, said = process.communicate("\n")
    watchdog.cancel()
    assert (process.returncode, said) == (130, "")


#: A module that swallows what is raised while it is imported, as numpy's parts do in each other.
SWALLOWS = """
import signal, time
try:
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)  # pressed twice
    while ENDLESS:
        time.sleep(0.01)
except BaseException:
    raise SystemExit("it was swallowed")
WHOLE = True
"""
IMPORTS = """
import sys, time
import typer
from upsnet_ros import cli
from upsnet_ros.cli.commands import app

@app.command("work")
def work() -> None:
    cli._SAME_SECONDS = SECONDS
    try:
        import swallows
        time.sleep(1000)
    except KeyboardInterrupt:
        print(sys.modules["swallows"].WHOLE)
        raise

cli.main()
"""


@pytest.mark.parametrize(
    ("endless", "seconds", "says"), [(False, "1e6", "True\n"), (True, "0.2", "")]
)
def test_ctrl_c_waits_for_the_end_of_an_import(tmp_path, endless, seconds, says):
    (tmp_path / "swallows.py").write_text(SWALLOWS.replace("ENDLESS", str(endless)))
    (tmp_path / "script.py").write_text(IMPORTS.replace("= SECONDS", f"= {seconds}"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), "work"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, says, "")
