#include "panoptic_listener/scene_report.hpp"

#include <algorithm>
#include <iomanip>
#include <sstream>
#include <stdexcept>

namespace panoptic_listener
{
namespace
{

/// A pixel of `bytes` bytes in the byte order that the message tells; labels are never negative.
std::uint32_t read_pixel(const std::uint8_t * pixel, std::size_t bytes, bool is_bigendian)
{
  std::uint32_t value = 0;
  for (std::size_t index = 0; index < bytes; ++index) {
    value = (value << 8) | pixel[is_bigendian ? index : bytes - 1 - index];
  }
  return value;
}

/// Below the last row of the segment, counted from the top.
std::uint32_t bottom(const sensor_msgs::msg::RegionOfInterest & roi)
{
  return roi.y_offset + roi.height;
}

double road_share(const sensor_msgs::msg::Image & labels, const std::set<std::uint32_t> & road_ids)
{
  std::size_t bytes = 0;
  if (labels.encoding == "16UC1") {
    bytes = 2;
  } else if (labels.encoding == "32SC1") {
    bytes = 4;
  } else {
    throw std::invalid_argument("labels are encoded as " + labels.encoding);
  }
  const std::size_t step = labels.step;
  if (step < labels.width * bytes || labels.data.size() < step * labels.height) {
    throw std::invalid_argument("labels hold fewer bytes than their size asks for");
  }
  const std::size_t first_row = labels.height / 2;
  const std::size_t total = (labels.height - first_row) * labels.width;
  std::size_t road = 0;
  // Neighbours mostly carry the same label, so the set is asked only where the label changes.
  std::uint32_t last = 0;
  bool last_is_road = road_ids.count(last) > 0;
  for (std::size_t row = first_row; row < labels.height; ++row) {
    const std::uint8_t * pixel = labels.data.data() + row * step;
    for (std::size_t column = 0; column < labels.width; ++column, pixel += bytes) {
      const std::uint32_t value = read_pixel(pixel, bytes, labels.is_bigendian != 0);
      if (value != last) {
        last = value;
        last_is_road = road_ids.count(value) > 0;
      }
      road += last_is_road ? 1 : 0;
    }
  }
  return total == 0 ? 0.0 : static_cast<double>(road) / static_cast<double>(total);
}

}  // namespace

SceneReport report_scene(
  const sensor_msgs::msg::Image & labels,
  const upsnet_ros::msg::PanopticInstanceArray & instances,
  const std::set<std::uint32_t> & road_ids)
{
  SceneReport report;
  report.road_share = road_share(labels, road_ids);
  report.things.assign(instances.instances.begin(), instances.instances.end());
  std::stable_sort(
    report.things.begin(), report.things.end(),
    [](const auto & one, const auto & other) {return bottom(one.roi) > bottom(other.roi);});
  for (const auto & region : instances.unknown_regions) {
    if (bottom(region.roi) > labels.height / 2) {
      report.unknown_regions += 1;
      report.unknown_area += region.area;
    }
  }
  return report;
}

std::string to_string(const SceneReport & report)
{
  constexpr std::size_t named = 3;
  std::ostringstream text;
  text << std::fixed << std::setprecision(0) << "road " << 100.0 * report.road_share
       << "% of the lower half; " << report.things.size() << " things, nearest first: ";
  text << std::setprecision(2);
  for (std::size_t index = 0; index < std::min(named, report.things.size()); ++index) {
    const auto & thing = report.things[index];
    text << (index ? ", " : "") << thing.class_name << " " << thing.id << " (" << thing.score << ")";
  }
  text << (report.things.empty() ? "none" : "") << "; " << report.unknown_regions
       << " unknown regions ahead, " << report.unknown_area << " px";
  return text.str();
}

}  // namespace panoptic_listener
