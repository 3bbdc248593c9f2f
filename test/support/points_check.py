"""Runs the points node where tf2_msgs and vision_msgs are, and prints as JSON what it published."""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import point_scene as scene
from geometry_msgs.msg import TransformStamped
from node_bench import Bench
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from vision_check import plain
from vision_msgs.msg import Detection3DArray

from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo, PanopticObjectArray
from upsnet_ros.points.node import PointsNode

LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
# Enough points on the car for an object, one behind the lidar, one on the road.
ON_THE_CAR = [[5.0, 2.0, 0.3]] * 6
CLOUD = np.array([*ON_THE_CAR, [-5.0, 0.0, 0.0], [10.0, 0.0, -2.5]])


def transform(parent, child, values):
    made = TransformStamped(child_frame_id=child)
    made.header.frame_id = parent
    x, y, z, qx, qy, qz, qw = values
    made.transform.translation.x, made.transform.translation.y = x, y
    made.transform.translation.z = z
    rotation = made.transform.rotation
    rotation.x, rotation.y, rotation.z, rotation.w = qx, qy, qz, qw
    return made


def main(domain):
    common = ("diagnostics_period:=0.1", "stale_timeout:=3600.0")
    bench = Bench(domain, "input:=cloud", kind=PointsNode, common=common)
    try:
        points = bench.collect("points", PointCloud2)
        objects = bench.collect("objects", PanopticObjectArray)
        detections = bench.collect("detections_3d", Detection3DArray)
        publisher = bench.camera
        label_info = publisher("label_info", LATCHED, PanopticLabelInfo)
        label_info.publish(scene.label_info())
        publishers = {
            "camera_info": publisher("camera_info", 10, CameraInfo),
            "labels": publisher("labels", 10, Image),
            "unknown_mask": publisher("unknown_mask", 10, Image),
            "instances": publisher("instances", 10, PanopticInstanceArray),
            "points_in": publisher("points_in", 10, PointCloud2),
        }
        assert bench.node.start()
        stamps = itertools.count(1_000_000_000, 100_000_000)

        def show():
            stamp = next(stamps)
            messages = {
                "camera_info": scene.camera_info(stamp),
                **scene.frame(stamp),
                "points_in": scene.cloud_message(CLOUD, stamp_ns=stamp),
            }
            for topic, message in messages.items():
                publishers[topic].publish(message)

        static = bench.other.create_publisher(TFMessage, "/tf_static", LATCHED)
        static.publish(
            TFMessage(
                transforms=[
                    transform("base", "camera_optical", (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0))
                ]
            )
        )
        said = "has no transform from"
        bench.until(lambda: said in bench.values().get("message", ""), said, again=show, every=0.3)
        before = bench.values()["message"]
        # Another publisher, as each driver has its own.
        other = bench.other.create_publisher(TFMessage, "/tf_static", LATCHED)
        other.publish(TFMessage(transforms=[transform("base", "lidar", scene.EXTRINSICS)]))
        bench.until(lambda: points and objects and detections, "all outputs", again=show, every=0.3)
        moves = bench.other.create_publisher(TFMessage, "/tf", 10)
        elsewhere = (1.0, *scene.EXTRINSICS[1:])

        def show_and_move():
            moves.publish(TFMessage(transforms=[transform("base", "lidar", elsewhere)]))
            show()

        said = "moves in"
        bench.until(
            lambda: said in bench.values().get("message", ""), said, again=show_and_move, every=0.3
        )
        class_ids = scene.records(points[0])["class_id"].tolist()
        return {
            "before": before,
            "moving": bench.values()["message"],
            "class_ids": class_ids[len(ON_THE_CAR) - 1 :],
            "objects": [plain(one) for one in objects[0].objects],
            "detections": [plain(one) for one in detections[0].detections],
        }
    finally:
        bench.close()


if __name__ == "__main__":
    json.dump(main(int(sys.argv[1])), sys.stdout)
