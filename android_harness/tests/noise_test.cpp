#include "s2p/noise.h"

#include <regex>

#include "fixtures.h"
#include "s2p/safetensors.h"

namespace s2p {
namespace {

using Block = std::array<std::uint32_t, 4>;

// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
TEST(Philox, GivesThePublishedAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Gaussian, EqualsThePythonNoiseBitForBit) {
  const TensorFile file(testing::kFixtures / "noise.safetensors");
  const std::regex pattern("seed=([0-9]+),stream=([0-9]+)");
  ASSERT_FALSE(file.names().empty());
  for (const std::string& name : file.names()) {
    std::smatch match;
    ASSERT_TRUE(std::regex_match(name, match, pattern)) << name;
    const auto expected = file.floats(name);
    const auto seed = std::stoull(match[1]);
    EXPECT_EQ(gaussian(seed, expected.size(), static_cast<std::uint32_t>(std::stoul(match[2]))), expected) << name;
  }
}

TEST(Gaussian, HasNoNumberLeftOverFromAnIncompleteBlock) {
  const auto ten = gaussian(5, 10);
  const auto seven = gaussian(5, 7);
  EXPECT_EQ(seven, std::vector<float>(ten.begin(), ten.begin() + 7));
  EXPECT_TRUE(gaussian(5, 0).empty());
}

}  // namespace
}  // namespace s2p
