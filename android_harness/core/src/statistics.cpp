#include "s2p/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace s2p {
namespace {

double percentile(const std::vector<double>& sorted, std::size_t percent) {
  // ceil(p / 100 * n) in whole numbers, so that no rounding moves the rank.
  const std::size_t rank = (percent * sorted.size() + 99) / 100;
  return sorted[rank - 1];
}

template <typename T>
Difference compare(const std::vector<T>& values, const std::vector<T>& reference, double peak) {
  double squares = 0;
  double largest = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double error = static_cast<double>(values[i]) - static_cast<double>(reference[i]);
    squares += error * error;
    // A NaN has to survive, which std::max would not do.
    if (std::isnan(error) || std::abs(error) > largest) largest = std::abs(error);
    if (std::isnan(largest)) break;
  }
  const double psnr = 10.0 * std::log10(peak * peak * static_cast<double>(reference.size()) / squares);
  return {std::isfinite(psnr) ? std::optional<double>(psnr) : std::nullopt, largest};
}

}  // namespace

std::optional<Summary> summarize(std::vector<double> samples) {
  if (samples.empty()) return std::nullopt;
  std::sort(samples.begin(), samples.end());
  const std::size_t dropped = samples.size() / 10;
  const auto first = samples.begin() + static_cast<std::ptrdiff_t>(dropped);
  const auto last = samples.end() - static_cast<std::ptrdiff_t>(dropped);
  const double mean = std::accumulate(first, last, 0.0) / static_cast<double>(samples.size() - 2 * dropped);
  return Summary{samples.size(), percentile(samples, 50), percentile(samples, 90), percentile(samples, 99), mean};
}

Difference compare_latents(const std::vector<float>& values, const std::vector<float>& reference) {
  const auto [low, high] = std::minmax_element(reference.begin(), reference.end());
  return compare(values, reference, static_cast<double>(*high) - static_cast<double>(*low));
}

Difference compare_pixels(const std::vector<unsigned char>& values, const std::vector<unsigned char>& reference) {
  return compare(values, reference, 255.0);
}

}  // namespace s2p
