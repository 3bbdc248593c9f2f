"""A pytest plugin that counts the assertions that ran, and the CPU seconds of each test.

``make count`` loads it. It adds its sums to pytest's report, and writes one line of JSON a test to
the file that ``COUNT_TO`` names. It counts the ``assert`` statements of test modules and conftest
files that passed: no ``pytest.raises``, none in another process, and none of Hypothesis, whose own
assertions pytest rewrites as well: hundreds for each example.

Under the hook an assertion's values live longer, so that tests of what is kept in memory fail.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Assertions are rewritten with the hook or without, and pytest's cache of them does not tell which.
sys.pycache_prefix = tempfile.mkdtemp(prefix="count_assertions_")


TESTS = f"{Path(__file__).parents[1]}{os.sep}"


def _cpu_seconds() -> float:
    """Those of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


class Counter:
    """Counts in each process that runs tests; sums where the reports arrive."""

    def __init__(self) -> None:
        self._assertions = 0
        self._since = _cpu_seconds()
        self._tests: dict[str, dict[str, Any]] = defaultdict(
            lambda: {"assertions": 0, "cpu": 0.0, "outcome": "passed"}
        )

    def pytest_collection_finish(self) -> None:
        self._since = _cpu_seconds()  # to import the test modules is no test's work

    def pytest_assertion_pass(self) -> None:
        frame = sys._getframe()
        while frame.f_code.co_name != "_call_assertion_pass" and frame.f_back:
            frame = frame.f_back
        # That one was called by the code that asserts.
        if frame.f_back and frame.f_back.f_code.co_filename.startswith(TESTS):
            self._assertions += 1

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        report = yield
        now = _cpu_seconds()
        # Attributes of a report travel from a worker of pytest-xdist to where they are summed.
        report.assertions, report.cpu = self._assertions, now - self._since
        self._assertions, self._since = 0, now
        return report

    def pytest_runtest_logreport(self, report: Any) -> None:
        test = self._tests[report.nodeid]
        test["assertions"] += report.assertions
        test["cpu"] += report.cpu
        if report.outcome != "passed":
            test["outcome"] = report.outcome

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        tests = self._tests.values()
        ran = sum(test["outcome"] != "skipped" for test in tests)
        terminalreporter.write_line(
            f"{ran} tests ran, {len(tests) - ran} skipped; "
            f"{sum(test['assertions'] for test in tests)} assertions passed; "
            f"{sum(test['cpu'] for test in tests):.0f} CPU seconds"
        )
        if path := os.environ.get("COUNT_TO"):
            lines = [json.dumps({"test": name, **test}) for name, test in self._tests.items()]
            Path(path).write_text("\n".join(lines) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Counter(), "assertion counter")
