"""The table of docs/reliability.md says what the tests of this folder do."""

from __future__ import annotations

import faults


def test_the_table_is_that_of_the_tests():
    told = faults.DOCUMENT.read_text("utf-8").partition(faults.BEGIN)[2].partition(faults.END)[0]
    assert told.strip() == faults.render(), "run `python test/support/faults.py`"


def test_every_test_of_this_folder_is_in_the_table():
    rows = faults.render()
    here = "test_table.py"
    missing = [name for path, name, _ in faults.tests() if path.name != here and name not in rows]
    assert missing == []
