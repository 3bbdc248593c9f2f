"""Runs the node where vision_msgs is installed, and prints as JSON what it published of a frame."""

from __future__ import annotations

import json
import sys

import numpy as np
from node_bench import Bench, image
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from vision_msgs.msg import Detection2DArray, LabelInfo

from upsnet_ros.msg import PanopticInstanceArray

LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


def plain(value):
    """A message as dictionaries, lists and numbers."""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, str | bool | int | float):
        return value
    return [plain(one) for one in np.asarray(value, object).tolist()]


def main(domain):
    bench = Bench(domain, "score_threshold:=0.0")
    try:
        detections = bench.collect("detections", Detection2DArray)
        instances = bench.collect("instances", PanopticInstanceArray)
        camera = bench.camera()
        assert bench.node.start()

        def both():
            stamps = [
                {one.header.stamp.nanosec for one in each} for each in (detections, instances)
            ]
            return set.intersection(*stamps)

        sent = iter(range(1, 10_000))
        bench.until(
            both, "a frame", again=lambda: camera.publish(image(next(sent), frame_id="eye"))
        )
        stamp = min(both())
        late = bench.collect("vision_label_info", LabelInfo, LATCHED)
        bench.until(lambda: late, "label info, which was published long ago")
        assert bench.set(score_threshold=0.5) == (True, "")
        bench.until(lambda: len(late) > 1, "label info with another threshold")
        assert bench.set(publish_detections=False) == (True, "")
        topics = [one.topic_name for one in bench.node.publishers]

        def of_frame(messages):
            return plain(next(one for one in messages if one.header.stamp.nanosec == stamp))

        return {
            "detections": of_frame(detections),
            "instances": of_frame(instances),
            "label_info": plain(late[0]),
            "thresholds": [one.threshold for one in late],
            "topics_left": topics,
        }
    finally:
        bench.close()


if __name__ == "__main__":
    json.dump(main(int(sys.argv[1])), sys.stdout)
