#include "s2p/picture.h"

#include <algorithm>
#include <cmath>

namespace s2p {

Picture to_picture(const std::vector<float>& image, std::size_t height, std::size_t width) {
  const std::size_t plane = height * width;
  Picture picture{width, height, std::vector<unsigned char>(3 * plane)};
  for (std::size_t channel = 0; channel < 3; ++channel) {
    for (std::size_t i = 0; i < plane; ++i) {
      const float unit = image[channel * plane + i] / 2.0f + 0.5f;
      // A NaN becomes black instead of an undefined conversion.
      const float bounded = unit > 0.0f ? std::min(unit, 1.0f) : 0.0f;
      picture.rgb[3 * i + channel] = static_cast<unsigned char>(std::nearbyint(bounded * 255.0f));
    }
  }
  return picture;
}

std::vector<float> from_picture(const Picture& picture) {
  const std::size_t plane = picture.height * picture.width;
  std::vector<float> image(3 * plane);
  for (std::size_t channel = 0; channel < 3; ++channel) {
    for (std::size_t i = 0; i < plane; ++i) {
      image[channel * plane + i] = static_cast<float>(picture.rgb[3 * i + channel] * 2.0 / 255.0 - 1.0);
    }
  }
  return image;
}

}  // namespace s2p
