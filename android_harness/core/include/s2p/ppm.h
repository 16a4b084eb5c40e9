#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "s2p/picture.h"

namespace s2p {

/// A binary PPM (P6, 8 bits; https://netpbm.sourceforge.net/doc/ppm.html) of exactly this size. `source` names it in messages, which say how
/// to make one. Throws Error(bad_input).
Picture parse_ppm(std::string_view bytes, const std::string& source, std::size_t width, std::size_t height);

/// The same of a file. Throws Error(not_found), too.
Picture read_ppm(const std::filesystem::path& path, std::size_t width, std::size_t height);

}  // namespace s2p
