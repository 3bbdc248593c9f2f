// Checks examples/cpp/src/scene_report.cpp; built and run by test_cpp_listener.py.

#include <cstdint>
#include <iostream>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "panoptic_listener/scene_report.hpp"

namespace
{

using panoptic_listener::report_scene;
using sensor_msgs::msg::Image;
using upsnet_ros::msg::PanopticInstance;
using upsnet_ros::msg::PanopticInstanceArray;
using upsnet_ros::msg::UnknownRegion;

int failures = 0;

void check(bool holds, const std::string & what)
{
  if (!holds) {
    std::cerr << "failed: " << what << "\n";
    ++failures;
  }
}

/// Labels with `padding` bytes of 0xff behind each row.
Image image(
  const std::vector<std::vector<std::uint32_t>> & rows, const std::string & encoding,
  bool is_bigendian, std::size_t padding)
{
  const std::size_t bytes = encoding == "16UC1" ? 2 : 4;
  Image message;
  message.height = static_cast<std::uint32_t>(rows.size());
  message.width = rows.empty() ? 0 : static_cast<std::uint32_t>(rows[0].size());
  message.encoding = encoding;
  message.is_bigendian = is_bigendian;
  message.step = static_cast<std::uint32_t>(message.width * bytes + padding);
  for (const auto & row : rows) {
    for (const auto value : row) {
      for (std::size_t index = 0; index < bytes; ++index) {
        const std::size_t place = is_bigendian ? bytes - 1 - index : index;
        message.data.push_back(static_cast<std::uint8_t>(value >> (8 * place)));
      }
    }
    message.data.insert(message.data.end(), padding, 0xff);
  }
  return message;
}

PanopticInstance thing(const std::string & name, std::uint32_t id, std::uint32_t top)
{
  PanopticInstance instance;
  instance.class_name = name;
  instance.id = id;
  instance.score = 0.75F;
  instance.roi.y_offset = top;
  instance.roi.height = 2;
  return instance;
}

UnknownRegion region(std::uint32_t top, std::uint32_t area)
{
  UnknownRegion unknown;
  unknown.roi.y_offset = top;
  unknown.roi.height = 1;
  unknown.area = area;
  return unknown;
}

bool refuses(const Image & labels)
{
  try {
    report_scene(labels, PanopticInstanceArray(), {7});
  } catch (const std::invalid_argument &) {
    return true;
  }
  return false;
}

}  // namespace

int main()
{
  // The upper half does not count; 7 and 26001 differ in both bytes, 200001 needs three.
  const std::vector<std::vector<std::uint32_t>> rows{
    {7, 7, 7, 7}, {7, 7, 7, 7}, {7, 7, 26001, 200001 % 65536}, {7, 0, 0, 7}};
  for (const std::string encoding : {"16UC1", "32SC1"}) {
    for (const bool is_bigendian : {false, true}) {
      for (const std::size_t padding : {0, 3}) {
        const auto report = report_scene(
          image(rows, encoding, is_bigendian, padding), PanopticInstanceArray(), {7});
        check(report.road_share == 0.5, encoding + " road share");
      }
    }
  }
  const auto wide = image({{0, 0}, {200001, 7}}, "32SC1", false, 0);
  check(report_scene(wide, PanopticInstanceArray(), {200001}).road_share == 0.5, "ids over 16 bit");

  PanopticInstanceArray instances;
  instances.instances = {thing("far", 1, 0), thing("near", 2, 2), thing("between", 3, 1)};
  instances.unknown_regions = {region(0, 5), region(2, 40), region(3, 2)};
  const auto report = report_scene(image(rows, "16UC1", false, 0), instances, {7});
  check(
    to_string(report) ==
    "road 50% of the lower half; 3 things, nearest first: near 2 (0.75), between 3 (0.75), "
    "far 1 (0.75); 2 unknown regions ahead, 42 px",
    to_string(report));

  const auto empty = image({}, "16UC1", false, 0);
  check(report_scene(empty, PanopticInstanceArray(), {7}).road_share == 0.0, "an empty image");
  check(refuses(image(rows, "32SC1", false, 0)) == false, "a good image is refused");
  auto bad = image(rows, "16UC1", false, 0);
  bad.data.pop_back();
  check(refuses(bad), "data cut short");
  bad = image(rows, "16UC1", false, 0);
  bad.step = 3;
  check(refuses(bad), "step smaller than a row");
  bad = image(rows, "16UC1", false, 0);
  bad.encoding = "bgr8";
  check(refuses(bad), "another encoding");
  return failures == 0 ? 0 : 1;
}
