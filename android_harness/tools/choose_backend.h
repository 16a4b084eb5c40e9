#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "s2p/backend.h"
#include "s2p/bundle.h"

namespace s2p {

/// The engine that this program was built with, or the bundle's golden run when `replay`. Throws Error(bad_input) when
/// neither fits the bundle.
std::unique_ptr<Backend> choose_backend(const Bundle& bundle, bool replay, std::optional<std::int64_t> threads);

}  // namespace s2p
