"""`upsnet view`: the overlay and statistics of running nodes on a local web page."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from upsnet_ros.cli.commands import errors_as_one_line, fail
from upsnet_ros.cli.options import check_ros_arguments

if TYPE_CHECKING:
    from upsnet_ros.view.feed import Feed
    from upsnet_ros.view.server import ViewServer


def view(
    ctx: typer.Context,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 for any free one."),
    ] = 8765,
) -> None:
    """Show overlay, rates, latency and dropped frames of all running nodes on a local web page.

    Nodes are found by /diagnostics, also if they start later. The overlay is subscribed to only
    while a browser shows it. Only browsers on this machine can connect; from another machine, use
    ssh -L 8765:127.0.0.1:8765 ROBOT.
    """
    check_ros_arguments(ctx.obj or ())
    from rclpy.executors import SingleThreadedExecutor

    from upsnet_ros.node.lifecycle import GuardedNode
    from upsnet_ros.node.process import RosProcess
    from upsnet_ros.view.feed import Feed
    from upsnet_ros.view.server import ADDRESS

    with RosProcess(ctx.obj) as ros, errors_as_one_line("view"):
        node = ros.own(GuardedNode("upsnet_view"))
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        feed = Feed(node)
        with _server(feed, port) as server:
            threading.Thread(target=server.serve_forever, name="upsnet_view", daemon=True).start()
            typer.echo(f"http://{ADDRESS}:{server.port}/ shows running nodes; Ctrl-C to stop")
            try:
                executor.spin_until_future_complete(ros.stop)
            finally:
                feed.close()
                server.shutdown()
                executor.shutdown()


def _server(feed: Feed, port: int) -> ViewServer:
    from upsnet_ros.view.server import ADDRESS, ViewServer

    try:
        return ViewServer(feed=feed, port=port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fail(
                f"port {port} of {ADDRESS} is in use, perhaps by another `upsnet view`: use --port"
            )
        fail(f"cannot listen on port {port} of {ADDRESS}: {error.strerror}")
