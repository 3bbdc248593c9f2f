"""The node under a manager that does as nav2's lifecycle_manager, which no wheel carries.

That one calls ~/change_state of each node of its list in turn, asks ~/get_state whether the node is
now where the transition leads, and gives up at the first that is elsewhere. It heeds no bond where
`bond_timeout` is 0.
"""

from __future__ import annotations

import shutil
import signal

import pytest
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from node_bench import BEST_EFFORT, image
from sensor_msgs.msg import Image

from upsnet_ros.weights import shipped_weights

pytestmark = pytest.mark.dds

NODE = ("node", "--no-autostart", "--variant", "cityscapes-r18", "--scale", "64", "--device", "cpu",
        "--warm-up", "none")  # fmt: skip
NAMES = ("/robot/front/upsnet", "/robot/rear/upsnet")
LATE = "late.safetensors"

UNCONFIGURED, INACTIVE = State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE
ACTIVE, FINALIZED = State.PRIMARY_STATE_ACTIVE, State.PRIMARY_STATE_FINALIZED
LEADS_TO = {
    Transition.TRANSITION_CONFIGURE: INACTIVE,
    Transition.TRANSITION_ACTIVATE: ACTIVE,
    Transition.TRANSITION_DEACTIVATE: INACTIVE,
    Transition.TRANSITION_CLEANUP: UNCONFIGURED,
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: FINALIZED,
}


class Manager:
    """Brings nodes up in the order of their names, and down in the other; says whether it did."""

    def __init__(self, probe, names):
        self._probe, self._names = probe, names

    def startup(self):
        return self._up(Transition.TRANSITION_CONFIGURE) and self.resume()

    def resume(self):
        return self._up(Transition.TRANSITION_ACTIVATE)

    def pause(self):
        return self._down(Transition.TRANSITION_DEACTIVATE)

    def reset(self):
        return self.pause() and self._down(Transition.TRANSITION_CLEANUP)

    def hard_reset(self):
        """As after an accident: whatever state each is in, it is asked all the same."""
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            for name in reversed(self._names):
                self._change(name, transition)

    def shutdown(self):
        return self.reset() and self._down(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)

    def states(self):
        return [self._state(name) for name in self._names]

    def _up(self, transition):
        return all(self._change(name, transition) for name in self._names)

    def _down(self, transition):
        return all(self._change(name, transition) for name in reversed(self._names))

    def _change(self, name, transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        answer = self._probe.call(ChangeState, f"{name}/change_state", request)
        return answer.success and self._state(name) == LEADS_TO[transition]

    def _state(self, name):
        answer = self._probe.call(GetState, f"{name}/get_state", GetState.Request())
        return answer.current_state.id


class Eye:
    """One node's camera, and its answers."""

    def __init__(self, probe, name):
        self._probe, self._name, namespace = probe, name, name.rpartition("/")[0]
        self._camera = probe.node.create_publisher(Image, f"{namespace}/image", BEST_EFFORT)
        self._labels = probe.collect(f"{namespace}/labels", Image, 10)
        self._stamp = 0

    def is_answered(self):
        self._labels.clear()

        def answered():
            self._stamp += 1
            self._camera.publish(image(self._stamp * 10**9))
            return self._labels

        self._probe.until(answered, f"an answer of {self._name}")

    def is_left_alone(self):
        self._probe.until(
            lambda: self._camera.get_subscription_count() == 0, f"{self._name} to stop listening"
        )


@pytest.fixture
def nodes(start, tmp_path):
    """Two nodes in processes of their own; the second one's weights are not there yet."""
    options = {NAMES[0]: (), NAMES[1]: ("-p", f"weights:={tmp_path / LATE}")}
    return [
        start(*NODE, "--ros-args", "-r", f"__ns:={name.rpartition('/')[0]}", *more)
        for name, more in options.items()
    ]


def test_startup_pause_resume_reset_and_shutdown(probe, nodes, tmp_path):
    manager, eyes = Manager(probe, NAMES), [Eye(probe, name) for name in NAMES]
    assert manager.states() == [UNCONFIGURED, UNCONFIGURED]

    # A node that cannot be configured ends the bring-up. The other one has made that transition,
    # and refuses to make it again, which does no harm.
    assert not manager.startup()
    assert manager.states() == [INACTIVE, UNCONFIGURED]
    assert "configure failed: there is no weights file" in nodes[1].output
    assert not manager.startup()
    manager.hard_reset()
    assert manager.states() == [UNCONFIGURED, UNCONFIGURED]

    shutil.copy(shipped_weights("cityscapes-r18"), tmp_path / LATE)
    assert manager.startup()
    assert manager.states() == [ACTIVE, ACTIVE]
    for eye in eyes:
        eye.is_answered()

    assert manager.pause()
    for eye in eyes:
        eye.is_left_alone()
    assert manager.resume()
    for eye in eyes:
        eye.is_answered()

    assert manager.reset()
    assert manager.states() == [UNCONFIGURED, UNCONFIGURED]
    assert manager.startup()
    for eye in eyes:
        eye.is_answered()

    assert manager.shutdown()
    assert manager.states() == [FINALIZED, FINALIZED]
    for node in nodes:
        assert node.popen.poll() is None, "who started it ends it, not the manager"
        assert node.signal(signal.SIGINT) == 0
        assert "Traceback" not in node.output
