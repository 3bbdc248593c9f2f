"""`python -m upsnet_ros.cli`: the `upsnet` command of this interpreter."""

from upsnet_ros.cli import main

main()
