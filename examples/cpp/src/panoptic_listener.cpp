// Reads panoptic labels as a perception stack would, and says what lies ahead: how much of the
// image's lower half is road, the nearest things, and unknown regions that may block the way.
//
//   ros2 run panoptic_listener panoptic_listener
//   ros2 run panoptic_listener panoptic_listener --ros-args -r __ns:=/panoptic/front

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "rclcpp/rclcpp.hpp"

// The .hpp headers are there from Jazzy on, and Humble has only the others.
#if __has_include("message_filters/subscriber.hpp")
#include "message_filters/subscriber.hpp"
#include "message_filters/sync_policies/exact_time.hpp"
#include "message_filters/synchronizer.hpp"
#else
#include "message_filters/subscriber.h"
#include "message_filters/sync_policies/exact_time.h"
#include "message_filters/synchronizer.h"
#endif

#include "panoptic_listener/scene_report.hpp"
#include "sensor_msgs/msg/image.hpp"
#include "upsnet_ros/msg/panoptic_instance_array.hpp"
#include "upsnet_ros/msg/panoptic_label_info.hpp"

namespace panoptic_listener
{

using sensor_msgs::msg::Image;
using upsnet_ros::msg::PanopticInstanceArray;
using upsnet_ros::msg::PanopticLabelInfo;

class PanopticListener : public rclcpp::Node
{
public:
  PanopticListener()
  : Node("panoptic_listener", "panoptic"), synchronizer_(Policy(kQueueSize))
  {
    // label_info is sent once and kept for those who come later; only a subscription that is
    // transient local too gets it.
    label_info_ = create_subscription<PanopticLabelInfo>(
      "label_info", rclcpp::QoS(1).reliable().transient_local(),
      [this](const PanopticLabelInfo::ConstSharedPtr & info) {on_label_info(*info);});
    labels_.subscribe(this, "labels");
    instances_.subscribe(this, "instances");
    // Both carry the camera's own header, so their stamps are equal to the nanosecond.
    synchronizer_.connectInput(labels_, instances_);
    synchronizer_.registerCallback(
      std::bind(
        &PanopticListener::on_frame, this, std::placeholders::_1, std::placeholders::_2));
  }

private:
  using Policy = message_filters::sync_policies::ExactTime<Image, PanopticInstanceArray>;
  static constexpr std::uint32_t kQueueSize = 10;

  void on_label_info(const PanopticLabelInfo & info)
  {
    std::set<std::uint32_t> road_ids;
    for (const auto & one : info.classes) {
      if (one.name == "road") {
        road_ids.insert(one.id);
      }
    }
    road_ids_ = road_ids;
    RCLCPP_INFO(get_logger(), "labels are of %s", info.dataset.c_str());
  }

  void on_frame(
    const Image::ConstSharedPtr & labels, const PanopticInstanceArray::ConstSharedPtr & instances)
  {
    if (!road_ids_) {
      return;  // label_info is on its way: it was sent before the first labels
    }
    const auto & header = labels->header;
    try {
      const std::string text = to_string(report_scene(*labels, *instances, *road_ids_));
      RCLCPP_INFO(
        get_logger(), "%d.%09u %s: %s", header.stamp.sec, header.stamp.nanosec,
        header.frame_id.c_str(), text.c_str());
    } catch (const std::exception & error) {
      RCLCPP_WARN(get_logger(), "cannot read a frame: %s", error.what());
    }
  }

  std::optional<std::set<std::uint32_t>> road_ids_;
  rclcpp::Subscription<PanopticLabelInfo>::SharedPtr label_info_;
  message_filters::Subscriber<Image> labels_;
  message_filters::Subscriber<PanopticInstanceArray> instances_;
  message_filters::Synchronizer<Policy> synchronizer_;
};

}  // namespace panoptic_listener

int main(int argc, char ** argv)
{
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<panoptic_listener::PanopticListener>());
  rclcpp::shutdown();
  return 0;
}
