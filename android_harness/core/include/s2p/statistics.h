#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace s2p {

/// Nearest-rank percentiles and the mean without the lowest and highest floor(n / 10) samples.
struct Summary {
  std::size_t count;
  double p50;
  double p90;
  double p99;
  double trimmed_mean;
};

/// Nothing for no samples.
std::optional<Summary> summarize(std::vector<double> samples);

/// Two arrays of equal size, the second the reference. `psnr_db` is null when they are identical, or when the reference is
/// constant and the ratio has no meaning.
struct Difference {
  std::optional<double> psnr_db;
  double max_abs;
};

/// PSNR with the reference's range (max - min) as the peak.
Difference compare_latents(const std::vector<float>& values, const std::vector<float>& reference);

/// PSNR of 8-bit pictures (peak 255); `max_abs` in grey levels.
Difference compare_pixels(const std::vector<unsigned char>& values, const std::vector<unsigned char>& reference);

}  // namespace s2p
