"""What is known of a ROS parameter: the fields of the settings classes carry it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

__all__ = ["Changes", "ParameterInfo", "SettingsError", "Value", "check_all", "infos", "parameter"]

#: A parameter's value. A list of strings is a tuple here, so that settings stay immutable.
Value = bool | int | float | str | tuple[str, ...]


class SettingsError(ValueError):
    """A parameter's value cannot be used; the message names the parameter and what it may be."""


class Changes(Enum):
    """When a parameter may change."""

    NEVER = "fixed at start"
    UNCONFIGURED = "read at configure"
    RELOADED = "read at configure and at ~/reload_weights"
    ALWAYS = "any time"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterInfo:
    """What is known of one parameter.

    Attributes:
        name: Its ROS name, and the name of the field that stands for it.
        default: Its default; the type of this value is the parameter's type.
        text: What it does, in whole sentences.
        group: The heading under which it is listed.
        changes: When it may change.
        minimum: Smallest value, of a number.
        maximum: Largest value, of a number.
        choices: All values, where there are few.
    """

    name: str
    default: Value
    text: str
    group: str
    changes: Changes
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def ros_type(self) -> str:
        """The type's name as ``ros2 param describe`` prints it."""
        names = {bool: "boolean", int: "integer", float: "double", str: "string"}
        return names.get(type(self.default), "string array")

    @property
    def constraint(self) -> str:
        """The range or the choices in words; empty where every value is good."""
        if self.choices:
            return "one of " + ", ".join(choice or '""' for choice in self.choices)
        if self.minimum is None or self.maximum is None:
            return ""
        return f"{self.minimum} to {self.maximum}"

    def parse(self, text: str) -> bool | int | float | str:
        """The value that a text stands for, of a parameter that is no list.

        Raises:
            SettingsError: Where it stands for none, or for one that is out of range.
        """
        value: bool | int | float | str = text
        if isinstance(self.default, bool):
            value = {"true": True, "false": False}.get(text.lower(), text)
        elif isinstance(self.default, int | float):
            with suppress(ValueError):  # `check` says what it should be
                value = type(self.default)(text)
        self.check(value)
        return value

    def check(self, value: object) -> None:
        """Raises `SettingsError` where ``value`` is of the wrong type or out of range."""
        if type(value) is not type(self.default):
            raise SettingsError(f"{self.name} must be of type {self.ros_type}, not {value!r}")
        if self.choices and value not in self.choices:
            raise SettingsError(f"{self.name} must be {self.constraint}, not {value!r}")
        if self.minimum is None or self.maximum is None or not isinstance(value, int | float):
            return
        if not self.minimum <= value <= self.maximum:  # NaN is refused too
            raise SettingsError(f"{self.name} must be {self.constraint}, not {value!r}")


def parameter(
    default: Value,
    text: str,
    *,
    group: str,
    changes: Changes = Changes.UNCONFIGURED,
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """The field of a settings class that stands for one parameter; see `ParameterInfo`."""
    minimum, maximum = limits if limits else (None, None)
    info = {
        "default": default,
        "text": text,
        "group": group,
        "changes": changes,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
    }
    return field(default=default, metadata={"parameter": info})


def infos(settings: type) -> tuple[ParameterInfo, ...]:
    """All parameters of a settings class, in the order in which they are listed to users."""
    return tuple(
        ParameterInfo(name=entry.name, **entry.metadata["parameter"]) for entry in fields(settings)
    )


def check_all(settings: Any) -> None:
    """Raises `SettingsError` where a field of ``settings`` is of the wrong type or out of range."""
    for info in infos(type(settings)):
        info.check(getattr(settings, info.name))
