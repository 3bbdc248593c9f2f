"""What others on the network can make the node do: no more than its operator gave leave for."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from faults import fault
from node_bench import Bench, image
from std_srvs.srv import Trigger

from upsnet_ros.weights import shipped_weights

pytestmark = pytest.mark.dds

POLICY = Path(__file__).resolve().parents[2] / "config" / "sros2" / "upsnet.policy.xml"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The operator's, with weights in a folder that was given and beside it."""
    home = tmp_path_factory.mktemp("home")
    given = home / "given"
    given.mkdir()
    shipped = shipped_weights("cityscapes-r18")
    assert shipped is not None
    for folder in (given, home):
        shutil.copy(shipped, folder / "weights.safetensors")
    (given / "link.safetensors").symlink_to(home / "weights.safetensors")
    return home


@pytest.fixture(scope="module")
def bench(domain, home):
    optional = ("semantic", "unknown_score")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home / "given")
        patch.setenv("HOME", str(home))
        bench = Bench(
            domain,
            "allow_random_weights:=false",
            f"weights:={home / 'given' / 'weights.safetensors'}",
            *(f"publish_{one}:=true" for one in optional),
            namespace="panoptic",
        )
        assert bench.node.start()
        yield bench
        bench.close()


OUTSIDE = ("/etc/passwd", "../weights.safetensors", "~/weights.safetensors", "link.safetensors",
           "/proc/self/environ", "/dev/zero", "~root/x.pth")  # fmt: skip


@fault(
    "The parameter `weights` set by others to a file outside the folder that the operator gave, by"
    " an absolute path, `..`, `~` or a link",
    often="{cases} paths",
    happens="Refused with the reason; nothing is read, ~/reload_weights loads what ran before",
)
@pytest.mark.parametrize("path", OUTSIDE)
def test_weights_outside_of_what_was_given(bench, path):
    opened = []
    recording = [True]

    def look(event, arguments):
        if recording and event == "open" and isinstance(arguments[0], str | os.PathLike):
            opened.append(os.path.realpath(arguments[0]))

    sys.addaudithook(look)
    before = bench.node.settings.weights
    taken, reason = bench.set(weights=path)
    assert not taken and reason.startswith("weights must lie in the folder ")
    answer = bench.call(Trigger, "reload_weights", Trigger.Request())
    recording.clear()
    assert answer.success and answer.message == f"now running: {before}"
    assert os.path.realpath(Path(path).expanduser()) not in opened
    assert os.path.realpath(before) in opened


@fault(
    "A frame_id that is a path, has line breaks, or is 64 KiB long",
    often="4 texts",
    happens="Answered with the same frame_id; no file appears or changes",
)
def test_a_frame_id_is_no_path(bench, home):
    camera, labels = bench.camera(), bench.collect("labels")
    files = sorted(home.rglob("*"))
    for number, text in enumerate(("../../x", "/etc/cron.d/x", "a\nb\r\n; c", "x" * 65536), 1):
        bench.until(
            lambda text=text: any(one.header.frame_id == text for one in labels),
            "an answer",
            again=lambda n=number, t=text: camera.publish(image(n * 10**9, frame_id=t)),
        )
    assert sorted(home.rglob("*")) == files


STRUCTURE = {
    "policy": {"enclaves"},
    "enclaves": {"enclave"},
    "enclave": {"profiles"},
    "profiles": {"profile"},
    "profile": {"topics", "services", "actions"},
    "topics": {"topic"},
    "services": {"service"},
    "topic": set(),
    "service": set(),
}


OTHER_INPUTS = {"/clock", "/panoptic/image/compressed"}  # where other parameters are set


@fault(
    "The SROS 2 policy beside the running node",
    often="once",
    happens="Well formed; it allows the node's own topics and services, and no others",
)
def test_the_policy_is_that_of_the_node(bench):
    root = ElementTree.parse(POLICY).getroot()
    assert root.tag == "policy" and root.get("version") == "0.2.0"
    for element in root.iter():
        assert {child.tag for child in element} <= STRUCTURE[element.tag]
    (profile,) = root.iter("profile")
    namespace, node = profile.get("ns"), profile.get("node")

    def allowed(tag, role):
        groups = [one for one in profile.iter(f"{tag}s") if one.get(role) == "ALLOW"]
        for name in (one.text for group in groups for one in group):
            if name.startswith("~"):
                yield f"{namespace}/{node}/{name[1:]}"
            else:
                yield name if name.startswith("/") else f"{namespace}/{name}"

    def real(kind):
        ask = getattr(bench.other, f"get_{kind}_names_and_types_by_node")
        return {name for name, _ in ask(node, namespace)}

    vision = {f"/panoptic/{one}" for one in ("detections", "vision_label_info")}
    for kind, wanted, optional in (
        ("publisher", set(allowed("topic", "publish")), vision),
        ("service", set(allowed("service", "reply")), set()),
        ("subscriber", set(allowed("topic", "subscribe")), OTHER_INPUTS),
    ):
        bench.until(
            lambda kind=kind, wanted=wanted - optional: wanted <= real(kind),
            f"the node to be a {kind} of all of {sorted(wanted)}",
        )
        assert real(kind) <= wanted
