#pragma once

namespace s2p {

constexpr const char* kVersion = "0.1.0";

}  // namespace s2p
