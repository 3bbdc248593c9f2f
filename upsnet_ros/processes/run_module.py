"""Runs a module of this package in a new process: ``python run_module.py MODULE ARGUMENT...``.

It is started by its path, because ``python -m`` and ``python -c`` put the working directory first
in ``sys.path``: a ``cv2.py`` or ``selectors.py`` among a user's data would run as code.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_PACKAGE = _HERE.parent


def _run() -> None:
    # Python puts a script's folder first: remove it, because its modules are not top-level ones.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _HERE]
    found = importlib.util.find_spec("upsnet_ros")
    if found is None or Path(found.origin or "").resolve().parent != _PACKAGE:
        sys.path.insert(0, str(_PACKAGE.parent))  # a checkout that is not installed
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run()
