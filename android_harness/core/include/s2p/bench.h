#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "s2p/backend.h"
#include "s2p/bundle.h"
#include "s2p/pipeline.h"
#include "s2p/png.h"
#include "s2p/probes.h"
#include "s2p/report.h"

namespace s2p {

/// The fidelity that a report calls ok: PSNR of the final latents against the golden quantized latents. The picture of
/// another engine's rounding lies above it; a wrong layer lies far below. docs/formats.md has the rule; s2p_runtime.verify and
/// the iOS harness use the same number.
constexpr double kDefaultFidelityFloorDb = 30.0;

/// The same of the 8-bit pictures, so that a wrong decoder is found, too.
constexpr double kDefaultPictureFloorDb = 20.0;

/// Default of BenchOptions::cool_seconds; the iOS harness has the same.
constexpr double kDefaultCoolSeconds = 600.0;

/// Default of BenchOptions::rest: the calling thread sleeps.
void sleep_for_seconds(double seconds);

struct BenchOptions {
  Protocol protocol;
  double fidelity_floor_db = kDefaultFidelityFloorDb;
  double picture_floor_db = kDefaultPictureFloorDb;
  /// How long to wait at most for a thermal state of nominal before anything is loaded; 0 does not wait. A device that tells no
  /// thermal state is not waited for.
  double cool_seconds = kDefaultCoolSeconds;
  /// Measures memory in a process of its own, when everything is unloaded here; nothing where that failed. Absent: memory is measured
  /// here, after the pictures.
  std::function<std::optional<Memory>()> memory_launch;
  Chunks chunks = Chunks::keep;  ///< with release, loading is part of a call's time
  /// Passes time in which the device rests. Tests give another, which knows when it does.
  std::function<void(double seconds)> rest = sleep_for_seconds;
};

/// One step of the protocol, for a progress bar or a plot. Of the calls only one a second is told.
struct BenchEvent {
  enum class Kind { loaded, warmup, image, call, fidelity, memory_pass, waiting };
  Kind kind;
  std::size_t index = 0;      ///< of the picture (warmup, image, fidelity) or of the U-Net call (call)
  std::size_t total = 0;
  double milliseconds = 0;    ///< of the load, the picture or the wait; 0 for calls and for the memory pass
};

struct BenchResult {
  Report report;
  std::map<std::string, Picture> pictures;  ///< drawn here, by golden run
};

/// Measures a bundle: load, and once more from what the system keeps of it, warm-up pictures, measured pictures of the first golden
/// run's prompt and seed, the other golden runs for their fidelity alone, and one more picture during which memory is sampled.
/// Temperature, power, and whether the app stays in front of an unlocked screen are sampled once a second on another thread while
/// pictures are measured; power is not while the device rests between them.
/// Throws what Pipeline throws; Error(bad_input) when the bundle has no golden run or the protocol makes no sense,
/// Error(check_failed) when final latents are not finite.
BenchResult run_bench(const Bundle& bundle, Backend& backend, Probes& probes, const BenchOptions& options,
                      const std::function<void(const BenchEvent&)>& progress);

/// Loads everything and draws the first golden run while memory is sampled.
Memory measure_memory(const Bundle& bundle, Backend& backend, const Probes& probes, Chunks chunks,
                      const std::function<void(const BenchEvent&)>& progress);

/// Writes the report and, beside it, each picture as STEM-GOLDEN.png. Throws Error(bad_input); no report is written then.
void write_result(const std::filesystem::path& report_path, const BenchResult& result);

}  // namespace s2p
