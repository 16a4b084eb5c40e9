#pragma once

#include <cstddef>
#include <filesystem>
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

/// Writes a PNG with stored (uncompressed) deflate blocks: every reader opens it, and nothing has to be linked for it.
/// Throws Error(bad_input) when the file cannot be written.
void write_png(const std::filesystem::path& path, const Picture& picture);

}  // namespace s2p
