#include "s2p/image_start.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <sstream>

#include "s2p/error.h"
#include "s2p/noise.h"

namespace s2p {
namespace {

/// The lowest index that a row looks at; `call` where it looks at nothing before.
std::size_t reach(const PlanCall& row, std::size_t call) {
  std::size_t lowest = call;
  for (const Term& term : row.states) lowest = std::min(lowest, term.index);
  for (const Term& term : row.outputs) lowest = std::min(lowest, term.index);
  return lowest;
}

/// `reached`: of the plan's own rows, as reach() has them.
ImageStart read_start(Fields fields, const SamplingPlan& plan, const std::vector<std::size_t>& reached) {
  ImageStart start;
  const std::size_t total = plan.calls.size();
  start.call = static_cast<std::size_t>(fields.integer("call", 0, static_cast<std::int64_t>(total) - 1));
  start.latents = fields.number("latents");
  start.noise = fields.number("noise");
  const Json& rows = fields.array("rows");
  if (rows.size() > total - start.call) invalid(fields.path_of("rows"), "more than calls are left");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::string path = fields.path_of("rows." + std::to_string(i));
    const std::size_t index = start.call + i;
    start.rows.push_back(PlanCall::read(Fields(rows[i], path), index));
    const PlanCall& row = start.rows.back();
    // Whatever the program made of a call's number was made from the plan's own.
    const bool told = row.timestep == plan.calls[index].timestep && row.input_scale == plan.calls[index].input_scale;
    if (!told) invalid(path, "another timestep or input_scale than the plan's");
    if (reach(row, index) < start.call) invalid(path, "looks behind the start");
  }
  for (std::size_t index = start.call + rows.size(); index < total; ++index) {
    if (reached[index] < start.call) invalid(fields.path_of("rows"), "the plan's row of call " + std::to_string(index) + " looks behind the start");
  }
  fields.finish();
  return start;
}

/// A number as people write it.
std::string plain(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

}  // namespace

std::vector<ImageStart> read_image_starts(const Json& list, const std::string& path, const SamplingPlan& plan) {
  if (list.size() != static_cast<std::size_t>(plan.steps)) invalid(path, "not one to each step of the plan");
  std::vector<std::size_t> reached;
  for (std::size_t i = 0; i < plan.calls.size(); ++i) reached.push_back(reach(plan.calls[i], i));
  std::vector<ImageStart> starts;
  for (std::size_t i = 0; i < list.size(); ++i) {
    starts.push_back(read_start(Fields(list[i], path + "." + std::to_string(i)), plan, reached));
  }
  return starts;
}

SamplingPlan begun_at(SamplingPlan plan, const ImageStart& start) {
  std::copy(start.rows.begin(), start.rows.end(), plan.calls.begin() + static_cast<std::ptrdiff_t>(start.call));
  return plan;
}

std::size_t skipped_steps(std::int64_t steps, double strength) {
  // So that what is no number is out of range, too.
  if (!(strength > 0 && strength <= 1)) {
    throw Error(ErrorKind::bad_input, "strength " + plain(strength) + " is out of range; give a number above 0, at most 1");
  }
  const auto made = static_cast<std::int64_t>(static_cast<double>(steps) * strength);
  if (made == 0) {
    throw Error(ErrorKind::bad_input, "strength " + plain(strength) + " leaves none of " + std::to_string(steps) + " steps; give " +
                                          plain(std::ceil(1000.0 / static_cast<double>(steps)) / 1000) + " or more");
  }
  return static_cast<std::size_t>(steps - made);
}

std::vector<float> picture_latents(const ImageStart& start, const std::vector<float>& encoded, std::uint64_t seed) {
  std::vector<float> latents = gaussian(seed, encoded.size());
  for (std::size_t i = 0; i < encoded.size(); ++i) {
    latents[i] = static_cast<float>(start.latents * static_cast<double>(encoded[i]) + start.noise * static_cast<double>(latents[i]));
  }
  return latents;
}

}  // namespace s2p
