#pragma once

#include <cstddef>
#include <vector>

namespace s2p {

/// 8-bit picture, RGB, rows from the top.
struct Picture {
  std::size_t width;
  std::size_t height;
  std::vector<unsigned char> rgb;
};

/// Decoder output [1, 3, height, width] in [-1, 1] -> picture: clamp(x / 2 + 0.5, 0, 1) * 255, rounded half to even.
Picture to_picture(const std::vector<float>& image, std::size_t height, std::size_t width);

/// Picture -> what a VAE encoder takes, [1, 3, height, width] in [-1, 1]: byte * 2 / 255 - 1 in double, rounded once.
std::vector<float> from_picture(const Picture& picture);

}  // namespace s2p
