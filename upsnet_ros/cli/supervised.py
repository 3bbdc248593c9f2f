"""`python -m upsnet_ros.cli.supervised`: the `upsnet` command for as long as its stdin is open.

`ProcessGroup` starts its processes so: the other end of stdin is its own, and closes with it.
"""

from upsnet_ros.cli import main
from upsnet_ros.orphans import end_with_pipe
from upsnet_ros.ros.leftovers import remove_leftovers

if __name__ == "__main__":
    alone = end_with_pipe(0)
    try:
        main()
    finally:
        if alone.is_set():
            remove_leftovers()  # it was killed, and may have been a ROS node itself
