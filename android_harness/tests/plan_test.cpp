#include "s2p/plan.h"

#include <cmath>

#include "fixtures.h"
#include "s2p/bundle.h"
#include "s2p/safetensors.h"

namespace s2p {
namespace {

struct PlanCase {
  const char* bundle;
  const char* golden;
};

class Replay : public ::testing::TestWithParam<PlanCase> {};

// The golden latents were made by the Python loop; feeding the recorded outputs back has to end in the same bits.
TEST_P(Replay, EndsInTheGoldenLatentsBitForBit) {
  const Bundle bundle = Bundle::open(testing::kFixtures / GetParam().bundle);
  const Manifest& manifest = bundle.manifest();
  const TensorFile golden(bundle.path(GetParam().golden));
  const auto recorded = golden.floats("noise_pred");
  const std::size_t count = manifest.latents.count();
  const std::size_t size = count * static_cast<std::size_t>(manifest.batch());
  const auto predict = [&](const std::vector<float>& scaled, std::size_t call) {
    EXPECT_EQ(scaled.size(), count);
    const float* begin = recorded.data() + call * size;
    return guide({begin, begin + size}, count, manifest.guidance);
  };
  const auto start = initial_latents(manifest.plan, manifest.golden[0].seed, count);
  EXPECT_EQ(start, golden.floats("initial_latents"));
  EXPECT_EQ(denoise(manifest.plan, predict, start, manifest.golden[0].seed), golden.floats("quantized_latents"));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Replay,
                         ::testing::Values(PlanCase{"replay.s2pmobile", "golden/first.safetensors"},
                                           PlanCase{"ancestral.s2pmobile", "golden/only.safetensors"}));

// Forward Euler on dx/dt = x in four steps has the known end (1 + h)^4, exact in binary for h = 1/4.
TEST(Denoise, SolvesAnEquationWithAKnownEnd) {
  SamplingPlan plan{"euler", 4, "sample", 1.0, {}};
  for (std::size_t i = 0; i < 4; ++i) plan.calls.push_back({0, 1.0, {{i, 1.0}}, {{i, 0.25}}, 0});
  const auto end = denoise(plan, [](const auto& scaled, std::size_t) { return scaled; }, {1.0f, -2.0f}, 0);
  EXPECT_EQ(end, (std::vector<float>{2.44140625f, -4.8828125f}));
}

TEST(Denoise, GivesTheScaledStateAndTheCallIndex) {
  SamplingPlan plan{"x", 2, "sample", 1.0, {}};
  plan.calls.push_back({0, 0.5, {{0, 3.0}}, {}, 0});
  plan.calls.push_back({0, 0.25, {{0, 1.0}, {1, 1.0}}, {{0, 1.0}}, 0});
  std::vector<std::pair<std::size_t, float>> seen;
  const auto end = denoise(
      plan,
      [&](const auto& scaled, std::size_t call) {
        seen.emplace_back(call, scaled[0]);
        return std::vector<float>{10.0f};
      },
      {8.0f}, 0);
  EXPECT_EQ(seen, (std::vector<std::pair<std::size_t, float>>{{0, 4.0f}, {1, 6.0f}}));
  EXPECT_EQ(end, std::vector<float>{8.0f + 24.0f + 10.0f});
}

TEST(Guide, MovesFromTheUnconditionalToTheConditional) {
  EXPECT_EQ(guide({1.0f, 2.0f, 2.0f, 4.0f}, 2, 7.5), (std::vector<float>{8.5f, 17.0f}));
  EXPECT_EQ(guide({1.0f, 2.0f}, 2, 1.0), (std::vector<float>{1.0f, 2.0f}));
}

}  // namespace
}  // namespace s2p
