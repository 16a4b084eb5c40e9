#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "s2p/backend.h"

namespace s2p {

/// ExecuTorch. Programs are memory-mapped. Where a component names no method, it is the one that they have, or `forward` of several.
class ExecuTorchBackend : public Backend {
 public:
  /// `threads` sizes ExecuTorch's thread pool, which is one for the process; absent: ExecuTorch chooses.
  explicit ExecuTorchBackend(std::optional<std::int64_t> threads);

  std::string_view target() const override { return "executorch"; }
  std::unique_ptr<Program> load(const std::string& name, const Component& component,
                                const std::filesystem::path& file) override;
  std::string describe(const Component& component) const override;
};

}  // namespace s2p
