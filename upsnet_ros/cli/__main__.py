"""`python -m upsnet_ros.cli`: the `upsnet` command of this interpreter.

With `WHILE_STDIN_IS_OPEN` as its first argument, it ends when the process that started it ends, or
closes the other end of stdin.
"""

import sys

from upsnet_ros.cli import main, quiet_interrupts

with quiet_interrupts():
    from upsnet_ros.processes.child_processes import WHILE_STDIN_IS_OPEN, end_with_pipe

if sys.argv[1:2] == [WHILE_STDIN_IS_OPEN]:
    end_with_pipe(0)  # before the imports of a command, which take time
    del sys.argv[1]

main()
