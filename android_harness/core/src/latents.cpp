#include "s2p/manifest.h"

// Between the sampler's latents and what the VAE gives and takes. All in float and from left to right, as s2p_runtime.bundle.LatentSpec
// does it: every operation rounds once.

namespace s2p {
namespace {

float of_channel(const std::optional<std::vector<double>>& statistics, std::size_t channel, float otherwise) {
  return statistics ? static_cast<float>((*statistics)[channel]) : otherwise;
}

}  // namespace

std::vector<float> LatentSpec::decoder_input(const std::vector<float>& latents) const {
  const auto scale = static_cast<float>(scaling_factor);
  const auto shift = static_cast<float>(shift_factor);
  const std::size_t plane = latents.size() / static_cast<std::size_t>(channels);
  std::vector<float> input(latents.size());
  for (std::size_t i = 0; i < latents.size(); ++i) {
    const std::size_t channel = i / plane;
    input[i] = latents[i] * of_channel(deviations, channel, 1.0F) / scale + shift + of_channel(means, channel, 0.0F);
  }
  return input;
}

std::vector<float> LatentSpec::encoded(const std::vector<float>& moments) const {
  const auto scale = static_cast<float>(scaling_factor);
  const auto shift = static_cast<float>(shift_factor);
  std::vector<float> latents(moments.size() / 2);
  const std::size_t plane = latents.size() / static_cast<std::size_t>(channels);
  for (std::size_t i = 0; i < latents.size(); ++i) {
    const std::size_t channel = i / plane;
    latents[i] = (moments[i] - shift - of_channel(means, channel, 0.0F)) / of_channel(deviations, channel, 1.0F) * scale;
  }
  return latents;
}

}  // namespace s2p
