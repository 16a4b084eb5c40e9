#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "s2p/json_fields.h"

namespace s2p {

/// (index into the history, coefficient)
struct Term {
  std::size_t index;
  double coefficient;
};

/// One U-Net call and the row that follows it.
struct PlanCall {
  double timestep;
  double input_scale;
  std::vector<Term> states;
  std::vector<Term> outputs;
  double noise = 0;

  /// The row of call `index`, which looks at nothing after it. Throws Error(invalid).
  static PlanCall read(Fields fields, std::size_t index);
};

/// The sampler as data: x_{i+1} = sum states[k] x_k + sum outputs[k] e_k + noise z_i; see docs/formats.md.
struct SamplingPlan {
  std::string scheduler;
  std::int64_t steps;
  std::string prediction_type;
  double initial_scale;
  std::vector<PlanCall> calls;

  /// Throws Error(invalid).
  static SamplingPlan read(Fields fields);
};

/// Classifier-free guidance on a batch of two, [unconditional, conditional]: u + guidance * (c - u), in float.
/// A batch of one is returned as it is. `outputs` holds `batch` times `count` numbers; the result has `count`.
std::vector<float> guide(const std::vector<float>& outputs, std::size_t count, double guidance);

/// x_0: Philox stream 0 of `seed` times float32(initial_scale).
std::vector<float> initial_latents(const SamplingPlan& plan, std::uint64_t seed, std::size_t count);

/// (scaled state, call index) -> guided output of the same size.
using Predict = std::function<std::vector<float>(const std::vector<float>& scaled, std::size_t call)>;

/// Called with the state that each row gives and the index of the call before it.
using OnState = std::function<void(std::size_t call, const std::vector<float>& state)>;

/// Walks the rows from call `first` on, from `latents` (= x_first), and returns the final state. Each row is summed in double in the
/// stored order (states, outputs, noise) and rounded to float once, as s2p_runtime.walker does: equal outputs give equal bits.
std::vector<float> denoise(const SamplingPlan& plan, const Predict& predict, std::vector<float> latents, std::uint64_t seed,
                           const OnState& on_state = {}, std::size_t first = 0);

}  // namespace s2p
