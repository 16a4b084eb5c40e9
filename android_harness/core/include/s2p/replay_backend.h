#pragma once

#include "s2p/backend.h"
#include "s2p/bundle.h"

namespace s2p {

/// Answers every call with what a golden run recorded, from its noise or from its own picture: all of the harness runs, without an
/// engine. For tests, for the cost of the loop itself, and for trying a new board before its engine is built.
class ReplayBackend : public Backend {
 public:
  /// The bundle's first golden run. Throws Error(bad_input) when there is none or it lacks a call.
  explicit ReplayBackend(const Bundle& bundle);
  ~ReplayBackend() override;

  std::string_view target() const override { return {}; }
  std::unique_ptr<Program> load(const std::string& name, const Component& component,
                                const std::filesystem::path& file) override;
  std::string describe(const Component& component) const override;
  bool can_draw(const GoldenRun& golden) const override;

 private:
  struct Recording;
  std::shared_ptr<const Recording> recording_;
};

}  // namespace s2p
