#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "s2p/plan.h"

namespace s2p {

/// How a run begins at a later call, from a picture in place of noise: x_call = latents E + noise z, with E the encoded picture and z the
/// noise that x_0 is made of; see docs/formats.md.
struct ImageStart {
  std::size_t call;  ///< the first that is made
  double latents;
  double noise;
  /// In place of the plan's from this call on: samplers that look back have nothing behind them yet.
  std::vector<PlanCall> rows;
};

/// A manifest's `image_starts`: one to each step of the plan, and no row that looks behind its start. Throws Error(invalid).
std::vector<ImageStart> read_image_starts(const Json& list, const std::string& path, const SamplingPlan& plan);

/// The plan of a run that begins at `start`; calls before it are not made and their rows mean nothing.
SamplingPlan begun_at(SamplingPlan plan, const ImageStart& start);

/// How many of `steps` a picture to start from saves, as diffusers' image-to-image pipelines count them. `strength` is the share that is
/// made. Throws Error(bad_input) when it is not in (0, 1] or leaves no step.
std::size_t skipped_steps(std::int64_t steps, double strength);

/// x of a start's call: summed in double and rounded to float once. `encoded`: see LatentSpec::encoded.
std::vector<float> picture_latents(const ImageStart& start, const std::vector<float>& encoded, std::uint64_t seed);

}  // namespace s2p
