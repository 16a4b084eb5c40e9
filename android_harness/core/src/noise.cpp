#include "s2p/noise.h"

#include <cmath>

namespace s2p {
namespace {

constexpr double kTwoPi = 6.283185307179586476925286766559;
constexpr double kTwoTo32 = 4294967296.0;

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  auto [c0, c1, c2, c3] = counter;
  auto [k0, k1] = key;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53} * c0;
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * c2;
    const auto high0 = static_cast<std::uint32_t>(product0 >> 32);
    const auto high1 = static_cast<std::uint32_t>(product1 >> 32);
    const std::uint32_t next0 = high1 ^ c1 ^ k0;
    const std::uint32_t next2 = high0 ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(product1);
    c3 = static_cast<std::uint32_t>(product0);
    c0 = next0;
    c2 = next2;
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {c0, c1, c2, c3};
}

std::vector<float> gaussian(std::uint64_t seed, std::size_t count, std::uint32_t stream) {
  const std::array<std::uint32_t, 2> key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  std::vector<float> numbers(count);
  for (std::size_t start = 0; start < count; start += 4) {
    const auto words = philox4x32({static_cast<std::uint32_t>(start / 4), 0, stream, 0}, key);
    std::array<double, 4> normal;
    for (int pair = 0; pair < 4; pair += 2) {
      const double radius = std::sqrt(-2.0 * std::log((words[pair] + 0.5) / kTwoTo32));
      const double angle = kTwoPi * ((words[pair + 1] + 0.5) / kTwoTo32);
      normal[pair] = radius * std::cos(angle);
      normal[pair + 1] = radius * std::sin(angle);
    }
    for (std::size_t i = 0; i < 4 && start + i < count; ++i) numbers[start + i] = static_cast<float>(normal[i]);
  }
  return numbers;
}

}  // namespace s2p
