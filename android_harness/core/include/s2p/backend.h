#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "s2p/manifest.h"

namespace s2p {

/// An input of a program: C order, not owned.
struct TensorView {
  DType dtype;
  std::vector<std::int64_t> shape;
  const void* data;
};

/// A loaded component. Not thread-safe.
class Program {
 public:
  virtual ~Program() = default;

  /// Runs once and returns the first output, float32 in C order. Throws Error(backend).
  virtual std::vector<float> run(const std::vector<TensorView>& inputs) = 0;

  /// Runs once and returns all outputs, float32 in C order. Throws Error(backend). Here: the first one alone.
  virtual std::vector<std::vector<float>> run_all(const std::vector<TensorView>& inputs) { return {run(inputs)}; }
};

/// An engine. Everything engine-specific stands behind this interface.
class Backend {
 public:
  virtual ~Backend() = default;

  /// What manifests call the programs that the engine runs. Empty: it runs none, so that bundles for any target will do.
  virtual std::string_view target() const = 0;

  /// Loads (and where the engine does so, compiles) the component's method from its file. Throws Error(backend).
  virtual std::unique_ptr<Program> load(const std::string& name, const Component& component,
                                        const std::filesystem::path& file) = 0;

  /// What runs the component, for the report, e.g. "executorch xnnpack".
  virtual std::string describe(const Component& component) const = 0;

  /// Makes ready for programs that are compiled for chips, before any program is loaded. False: the engine runs none of them. Throws
  /// what the engine throws when it lacks what they need.
  virtual bool prepare_npu() { return false; }

  /// Whether the engine can draw a golden run. One that only plays a recording back knows its own run alone.
  virtual bool can_draw(const GoldenRun&) const { return true; }
};

}  // namespace s2p
