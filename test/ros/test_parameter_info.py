from __future__ import annotations

import pytest

from upsnet_ros.ros.parameter_info import Changes, ParameterInfo, SettingsError, Value


def info(default: Value, **limits: float) -> ParameterInfo:
    return ParameterInfo(
        name="it", default=default, text="", group="", changes=Changes.ALWAYS, **limits
    )


@pytest.mark.parametrize(
    ("default", "text", "value"),
    [(False, "True", True), (True, "false", False), (1, "42", 42), (1.0, "42", 42.0),
     (1.0, "1e-3", 0.001), ("", "42", "42"), ("", "true", "true")],
)  # fmt: skip
def test_a_text_is_read_as_of_the_type_of_the_parameter(
    default: Value, text: str, value: Value
) -> None:
    found = info(default).parse(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("default", "text"), [(False, "1"), (1, "1.5"), (1, "many"), (1.0, ""), (("a",), "a")]
)
def test_a_text_that_is_no_such_value_is_refused(default: Value, text: str) -> None:
    with pytest.raises(SettingsError, match=f"it must be of type .*, not '{text}'"):
        info(default).parse(text)


@pytest.mark.parametrize("text", ["-0.1", "1.5", "nan"])
def test_a_text_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="it must be 0 to 1, not"):
        info(0.5, minimum=0, maximum=1).parse(text)
