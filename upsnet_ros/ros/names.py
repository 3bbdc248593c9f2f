"""Names of topics and namespaces as ROS resolves them, for those who are no node."""

from __future__ import annotations

__all__ = ["absolute_namespace", "full_name"]


def absolute_namespace(namespace: str) -> str:
    """The namespace as ROS spells it: ``/front/eye`` of ``front/eye/``, ``/`` of the root."""
    return "/" + namespace.strip("/")


def full_name(name: str, *, namespace: str) -> str:
    """A topic's name beginning at the root; one that begins with a slash does so already."""
    if name.startswith("/"):
        return name
    return f"{absolute_namespace(namespace).rstrip('/')}/{name}"
