"""Requests to the node's services that make no sense."""

from __future__ import annotations

import pytest
from faults import fault
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_bench import Bench
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)

pytestmark = pytest.mark.dds


@pytest.fixture(scope="module")
def bench(domain):
    bench = Bench(domain, namespace="asked")
    assert bench.node.start()
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def is_answered(bench):
    camera, labels = bench.camera(), bench.collect("labels")

    def check():
        labels.clear()
        bench.show(camera, lambda: labels)

    return check


NAMES = ["no.such.parameter", ".", "~/\n", "x" * 65536]


def parameters():
    """Of a type that is none, of the wrong one, of a value that is none, and of odd names."""
    return [
        Parameter(name="score_threshold", value=ParameterValue(type=99)),
        Parameter(name="score_threshold", value=ParameterValue(type=4, string_value="0.5")),
        Parameter(name="score_threshold", value=ParameterValue(type=3, double_value=float("nan"))),
        Parameter(name="cameras", value=ParameterValue(type=9, string_array_value=["a"] * 1000)),
        *(Parameter(name=name, value=ParameterValue(type=2, integer_value=-1)) for name in NAMES),
    ]


def change(transition, label=""):
    return ChangeState.Request(transition=Transition(id=transition, label=label))


REQUESTS = {
    "a transition that is none": (ChangeState, lambda: [change(42), change(255)]),
    "a transition that the state does not have": (
        ChangeState,
        lambda: [change(one) for one in (1, 2, 3, 5, 6, 8)],
    ),
    "a transition by a name that is none": (ChangeState, lambda: [change(0, "x" * 65536)]),
    "a transition inside of the node": (
        ChangeState,
        lambda: [change(0, label) for label in ("transition_success", "transition_error")],
    ),
    "parameters set": (
        SetParameters,
        lambda: [SetParameters.Request(parameters=[one]) for one in parameters()],
    ),
    "parameters set together": (
        SetParametersAtomically,
        lambda: [SetParametersAtomically.Request(parameters=[one]) for one in parameters()],
    ),
    "parameters asked for": (GetParameters, lambda: [GetParameters.Request(names=NAMES)]),
    "parameters' types": (GetParameterTypes, lambda: [GetParameterTypes.Request(names=NAMES)]),
    "parameters described": (
        DescribeParameters,
        lambda: [DescribeParameters.Request(names=NAMES)],
    ),
    "parameters listed": (
        ListParameters,
        lambda: [ListParameters.Request(prefixes=NAMES, depth=2**64 - 1)],
    ),
}


def names(service):
    """The service's name: `SetParameters` is ~/set_parameters."""
    return "".join(f"_{one.lower()}" if one.isupper() else one for one in service.__name__)[1:]


@fault(
    "Requests to ~/change_state and the services of parameters that make no sense",
    often="{cases} kinds",
    happens="Each is refused; nothing changes, the node lives, the next frame is answered",
)
@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_that_makes_no_sense(bench, is_answered, kind):
    service, requests = REQUESTS[kind]
    settings = bench.node.settings
    for request in requests():
        answer = bench.call(service, names(service), request)
        for result in (answer, *getattr(answer, "results", ()), getattr(answer, "result", answer)):
            assert not getattr(result, "success", False)
            assert not getattr(result, "successful", False)
    assert bench.node.state == "active"
    assert bench.node.settings == settings
    is_answered()
