// What a frame's labels and instances say about the way ahead. Needs the messages, but no rclcpp.

#ifndef PANOPTIC_LISTENER__SCENE_REPORT_HPP_
#define PANOPTIC_LISTENER__SCENE_REPORT_HPP_

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "sensor_msgs/msg/image.hpp"
#include "upsnet_ros/msg/panoptic_instance.hpp"
#include "upsnet_ros/msg/panoptic_instance_array.hpp"

namespace panoptic_listener
{

struct SceneReport
{
  /// Share of road in the lower half of the image, 0 to 1.
  double road_share{0.0};

  /// Things, the nearest first: what touches the ground lower in the image is nearer.
  std::vector<upsnet_ros::msg::PanopticInstance> things;

  /// Unknown regions that reach into the lower half, where they may block the way.
  std::size_t unknown_regions{0};

  /// Their pixels.
  std::uint64_t unknown_area{0};
};

/// Reads a frame.
///
/// \param labels 16UC1 or 32SC1, rows padded or not, either byte order
/// \param instances of the same stamp
/// \param road_ids label values that mean road
/// \throws std::invalid_argument for another encoding, or data that does not fit the size
SceneReport report_scene(
  const sensor_msgs::msg::Image & labels,
  const upsnet_ros::msg::PanopticInstanceArray & instances,
  const std::set<std::uint32_t> & road_ids);

/// The report in one line.
std::string to_string(const SceneReport & report);

}  // namespace panoptic_listener

#endif  // PANOPTIC_LISTENER__SCENE_REPORT_HPP_
