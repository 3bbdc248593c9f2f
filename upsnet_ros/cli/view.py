"""`upsnet view`: the node's overlay and figures on a local web page."""

from __future__ import annotations

import errno
import threading
from typing import Annotated

import rclpy
import typer
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from upsnet_ros.cli import fail
from upsnet_ros.ros.signals import stop_on_signals
from upsnet_ros.ros.transport import use_shared_memory_profile
from upsnet_ros.view.feed import Feed
from upsnet_ros.view.server import ADDRESS, ViewServer

__all__ = ["view"]


def view(
    ctx: typer.Context,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes any free one.")
    ] = 8765,
) -> None:
    """Show overlay, rates, latency and drops of every node in reach on a local web page.

    It goes by /diagnostics and finds nodes that come later or come back. The overlay is subscribed
    to only while a browser shows it, so that looking costs nothing otherwise. Only this machine's
    browsers are answered; from another one: ssh -L 8765:127.0.0.1:8765 ROBOT.
    """
    use_shared_memory_profile()
    rclpy.init(args=ctx.obj, signal_handler_options=SignalHandlerOptions.NO)
    stop = stop_on_signals()
    node = Node("upsnet_view")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        feed = Feed(node)
        with _server(feed, port) as server:
            threading.Thread(target=server.serve_forever, name="upsnet_view", daemon=True).start()
            typer.echo(f"http://{ADDRESS}:{server.port}/ shows what the node does; Ctrl-C ends it")
            try:
                executor.spin_until_future_complete(stop)
            finally:
                feed.close()
                server.shutdown()
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


def _server(feed: Feed, port: int) -> ViewServer:
    try:
        return ViewServer(feed=feed, port=port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fail(
                f"port {port} of {ADDRESS} is taken, by another `upsnet view`? --port takes others"
            )
        fail(f"port {port} of {ADDRESS} cannot be had: {error.strerror}")
