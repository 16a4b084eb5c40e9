#pragma once

#include <filesystem>

#include "s2p/picture.h"

namespace s2p {

/// Writes a PNG with stored (uncompressed) deflate blocks: every reader opens it, and nothing has to be linked for it.
/// Throws Error(bad_input) when the file cannot be written.
void write_png(const std::filesystem::path& path, const Picture& picture);

}  // namespace s2p
