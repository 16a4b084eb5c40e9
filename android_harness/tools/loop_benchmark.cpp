#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <string>

#include "s2p/pipeline.h"
#include "s2p/statistics.h"

// What the harness itself costs per U-Net call: scaling, batching, guidance and a two-term multistep row, without a model.

namespace {

constexpr std::size_t kCalls = 51;
constexpr int kRepeats = 20;

s2p::SamplingPlan multistep_plan() {
  s2p::SamplingPlan plan{"benchmark", kCalls, "epsilon", 1.0, {}};
  for (std::size_t i = 0; i < kCalls; ++i) {
    s2p::PlanCall call{0, 1.0, {{i, 1.0}}, {{i, -0.01}}, 0};
    for (std::size_t back = 1; back <= std::min<std::size_t>(i, 3); ++back) call.outputs.push_back({i - back, 0.001});
    plan.calls.push_back(call);
  }
  return plan;
}

}  // namespace

int main(int count, char** values) {
  const std::size_t side = count > 1 ? std::strtoul(values[1], nullptr, 10) : 64;
  const std::size_t size = 4 * side * side;
  const s2p::SamplingPlan plan = multistep_plan();
  const std::vector<float> output(2 * size, 0.5f);
  std::vector<double> per_call_us;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    std::vector<float> batch(2 * size);
    const auto start = s2p::Clock::now();
    s2p::denoise(
        plan,
        [&](const std::vector<float>& scaled, std::size_t) {
          std::copy(scaled.begin(), scaled.end(), batch.begin());
          std::copy(scaled.begin(), scaled.end(), batch.begin() + static_cast<std::ptrdiff_t>(size));
          return s2p::guide(output, size, 7.5);
        },
        s2p::initial_latents(plan, 0, size), 0);
    per_call_us.push_back(s2p::milliseconds_since(start) * 1000.0 / static_cast<double>(kCalls));
  }
  std::cout << "latents 4 x " << side << " x " << side << ": " << s2p::summarize(per_call_us)->p50 << " microseconds a call\n";
}
