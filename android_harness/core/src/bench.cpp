#include "s2p/bench.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <iterator>
#include <thread>
#include <utility>

#include "s2p/component_checks.h"
#include "s2p/error.h"
#include "s2p/periodic.h"
#include "s2p/pipeline.h"
#include "s2p/safetensors.h"
#include "s2p/version.h"

namespace s2p {
namespace {

constexpr std::chrono::milliseconds kSensorInterval{1000};
constexpr std::chrono::milliseconds kMemoryInterval{100};
// A listener costs time inside the picture that is being measured (a pipe, a screen), so it hears of few calls.
constexpr double kCallEventMilliseconds = 1000;
constexpr const char* kNoReading = "the device gives no reading";
constexpr const char* kNoLaunch = "the process that measures memory ended early, most likely because memory ran out";

#ifdef __ANDROID__
constexpr const char* kHarness = "android";
#else
constexpr const char* kHarness = "linux";
#endif

void check_protocol(const Protocol& protocol) {
  const bool sound = protocol.runs >= 1 && protocol.warmup_runs >= 0 && protocol.cooldown_seconds >= 0 &&
                     protocol.minimum_seconds >= 0 && std::isfinite(protocol.cooldown_seconds) &&
                     std::isfinite(protocol.minimum_seconds);
  if (!sound) throw Error(ErrorKind::bad_input, "runs must be at least 1 and no count or time negative; change the options");
}

double seconds_since(Clock::time_point start) { return milliseconds_since(start) / 1000.0; }

Fidelity compare_with_golden(const Bundle& bundle, const GoldenRun& golden, const Drawing& drawing) {
  const TensorFile file(bundle.path(golden.path));
  const std::vector<float> latents = file.floats("quantized_latents");
  const std::vector<float> image = file.floats("image");
  const Picture& picture = drawing.picture;
  if (latents.size() != drawing.latents.size() || image.size() != picture.rgb.size()) {
    throw Error(ErrorKind::bad_tensors, "golden run " + golden.id + " has another shape than the bundle; convert the model again");
  }
  const Difference difference = compare_latents(drawing.latents, latents);
  if (!std::isfinite(difference.max_abs)) {
    throw Error(ErrorKind::check_failed, "the final latents of golden run " + golden.id +
                                             " are not finite; convert the model with --precision fp32");
  }
  return {golden.id, difference, compare_pixels(picture.rgb, to_picture(image, picture.height, picture.width).rgb)};
}

bool is_near(const Difference& difference, double floor_db) {
  return difference.max_abs == 0.0 || difference.psnr_db.value_or(-1.0) >= floor_db;
}

bool is_faithful(const Fidelity& fidelity, const BenchOptions& options) {
  return is_near(fidelity.latents, options.fidelity_floor_db) &&
         (!fidelity.picture || is_near(*fidelity.picture, options.picture_floor_db));
}

/// Waits until the device is cool, or does not tell, or the time is over.
void wait_until_cool(Probes& probes, const BenchOptions& options, const std::function<void(const BenchEvent&)>& progress) {
  const auto start = Clock::now();
  const double seconds = options.cool_seconds;
  const auto total = static_cast<std::size_t>(seconds);
  for (;;) {
    const double waited = milliseconds_since(start) / 1000.0;
    if (waited >= seconds || probes.thermal().state.value_or("nominal") == "nominal") return;
    progress({BenchEvent::Kind::waiting, static_cast<std::size_t>(waited), total, waited * 1000.0});
    options.rest(std::chrono::duration<double>(kSensorInterval).count());
  }
}

/// What happens to the device while pictures are measured, from one look a second.
class Watch {
 public:
  explicit Watch(Probes& probes) : probes_(probes) {}

  void look(const ThermalSample& sample) {
    compare(sample.seconds, front_, probes_.foreground(), "background", "foreground");
    compare(sample.seconds, open_, probes_.unlocked(), "lock", "unlock");
    if (!sample.state) return;
    if (state_ && *state_ != *sample.state) events_.push_back({sample.seconds, "thermal", sample.state});
    state_ = sample.state;
    throttled_ = throttled_ || *state_ == "serious" || *state_ == "critical";
  }

  void tell(Report& report) const {
    report.validity.foreground = front_.always;
    report.validity.unlocked = open_.always;
    if (state_) report.validity.not_throttled = !throttled_;
    report.events = events_;
  }

 private:
  struct Condition {
    std::optional<bool> now;
    std::optional<bool> always;
  };

  void compare(double seconds, Condition& condition, std::optional<bool> found, const char* left, const char* back) {
    if (!found) return;
    if (condition.now.value_or(true) != *found) events_.push_back({seconds, *found ? back : left, std::nullopt});
    condition.now = found;
    condition.always = condition.always.value_or(true) && *found;
  }

  Probes& probes_;
  Condition front_;
  Condition open_;
  std::optional<std::string> state_;
  bool throttled_ = false;
  std::vector<RunEvent> events_;
};

void explain_missing(Report& report) {
  const auto note = [&](bool absent, const std::string& path, const std::string& reason) {
    if (absent) report.missing.emplace(path, reason);
  };
  const auto none = [](const auto& samples, const auto& has) { return std::none_of(samples.begin(), samples.end(), has); };
  note(!report.device.soc, "device.soc", "the system does not name the chip");
  note(!report.device.memory_bytes, "device.memory_bytes", kNoReading);
  note(!report.device.cores, "device.cores", kNoReading);
  note(!report.protocol.threads, "protocol.threads", "the engine chose");
  note(true, "compute_units", "this engine has no such choice");
  note(true, "placement", "this engine does not tell where operators run");
  const bool launched = report.memory.method != kNoLaunch;
  note(!report.memory.baseline_bytes, "memory.baseline_bytes", launched ? "/proc/self/status has no VmRSS" : kNoLaunch);
  note(!report.memory.peak_bytes, "memory.peak_bytes", launched ? "/proc/self/status has no VmHWM" : kNoLaunch);
  note(report.memory.samples.empty(), "memory.samples", launched ? "/proc/self/smaps_rollup cannot be read" : kNoLaunch);
  note(none(report.thermal, [](const auto& s) { return s.state.has_value(); }), "thermal.state", kNoReading);
  note(none(report.thermal, [](const auto& s) { return !s.celsius.empty(); }), "thermal.celsius", kNoReading);
  note(none(report.thermal, [](const auto& s) { return s.headroom.has_value(); }), "thermal.headroom",
       "needs Android's thermal service (API 31)");
  note(none(report.energy, [](const auto& s) { return s.milliwatts.has_value(); }), "energy.milliwatts",
       "no power sensor, or the battery is charging");
  note(none(report.energy, [](const auto& s) { return s.battery_level.has_value(); }), "energy.battery_level",
       "no battery that can be read");
  note(!report.validity.unplugged, "validity.unplugged", "no battery that can be read");
  note(!report.validity.low_power_mode_off, "validity.low_power_mode_off", kNoReading);
  note(!report.validity.thermal_nominal_at_start, "validity.thermal_nominal_at_start", kNoReading);
  for (std::size_t i = 0; i < report.fidelity.size(); ++i) {
    const std::string path = "fidelity." + std::to_string(i) + ".";
    note(!report.fidelity[i].latents.psnr_db, path + "latent_psnr_db", "no finite ratio: identical, constant or not finite");
    note(report.fidelity[i].picture && !report.fidelity[i].picture->psnr_db, path + "image_psnr_db", "the pictures are identical");
  }
}

/// Pictures with their events.
class Session {
 public:
  Session(const Bundle& bundle, Backend& backend, Chunks chunks, const std::function<void(const BenchEvent&)>& progress)
      : calls_(bundle.manifest().plan.calls.size()), progress_(progress), pipeline_(bundle, backend, Residency::keep, chunks) {}

  /// Milliseconds of the first load of each component, and of one after that, from what the system keeps of the first.
  std::map<std::string, std::map<std::string, double>> load() {
    std::map<std::string, std::map<std::string, double>> phases;
    double total = 0;
    for (const char* phase : {"first", "cached"}) {
      pipeline_.unload();
      pipeline_.load();
      for (const auto& [name, milliseconds] : pipeline_.load_ms()) phases[name][phase] = milliseconds;
    }
    for (const auto& [name, times] : phases) total += times.at("first");
    progress_({BenchEvent::Kind::loaded, 0, phases.size(), total});
    return phases;
  }

  Drawing draw(const GoldenRun& golden, BenchEvent::Kind kind, std::size_t index, std::size_t total) {
    auto heard = Clock::now();
    Watcher watcher;
    watcher.on_call = [&](std::size_t call) {
      if (milliseconds_since(heard) < kCallEventMilliseconds) return;
      heard = Clock::now();
      progress_({BenchEvent::Kind::call, call, calls_, 0});
    };
    Drawing drawing = pipeline_.draw({golden.prompt, golden.seed, std::nullopt}, watcher);
    progress_({kind, index, total, drawing.timings.image});
    return drawing;
  }

 private:
  std::size_t calls_;
  const std::function<void(const BenchEvent&)>& progress_;
  Pipeline pipeline_;
};

/// Compares a picture with its golden run and keeps it.
void compare(const Bundle& bundle, const GoldenRun& golden, Drawing drawing, BenchResult& result) {
  result.report.fidelity.push_back(compare_with_golden(bundle, golden, drawing));
  result.pictures.emplace(golden.id, std::move(drawing.picture));
}

/// The measured pictures, and the first one's comparison. Before each of them, while the device is left to rest, `resting` is true.
void draw_measured(Session& session, const Bundle& bundle, const BenchOptions& options, std::atomic<bool>& resting,
                   BenchResult& result) {
  const GoldenRun& golden = bundle.manifest().golden.front();
  Report& report = result.report;
  const std::int64_t runs = report.protocol.runs;
  const bool rests = report.protocol.cooldown_seconds > 0;
  for (std::int64_t run = 0; run < runs; ++run) {
    if (rests) options.rest(report.protocol.cooldown_seconds);
    resting = false;
    Drawing drawing =
        session.draw(golden, BenchEvent::Kind::image, static_cast<std::size_t>(run), static_cast<std::size_t>(runs));
    // The last look comes behind the last picture, and counts for it.
    resting = rests && run + 1 < runs;
    report.timings.text_encoder.push_back(drawing.timings.text_encoder);
    report.timings.unet_call.push_back(drawing.timings.unet_call);
    report.timings.vae_decoder.push_back(drawing.timings.vae_decoder);
    report.timings.image.push_back(drawing.timings.image);
    if (run == 0) compare(bundle, golden, std::move(drawing), result);
  }
}

void measure(Session& session, const Bundle& bundle, Probes& probes, const BenchOptions& options, BenchResult& result) {
  Report& report = result.report;
  const auto start = Clock::now();
  Watch watch(probes);
  std::atomic<bool> resting = report.protocol.cooldown_seconds > 0;
  {
    const Periodic sensors(kSensorInterval, [&] {
      const double seconds = seconds_since(start);
      report.thermal.push_back(probes.thermal());
      report.thermal.back().seconds = seconds;
      watch.look(report.thermal.back());
      if (resting) return;
      EnergySample energy = probes.energy();
      energy.seconds = seconds;
      // What was read while a rest began may be of the rest.
      if (!resting) report.energy.push_back(std::move(energy));
    });
    draw_measured(session, bundle, options, resting, result);
  }
  watch.tell(report);
}

/// The golden runs behind the first, which was measured: each once, for its fidelity.
void draw_others(Session& session, const Bundle& bundle, const Backend& backend, BenchResult& result) {
  std::vector<GoldenRun> others;
  const auto& all = bundle.manifest().golden;
  std::copy_if(all.begin() + 1, all.end(), std::back_inserter(others), [&](const GoldenRun& run) { return backend.can_draw(run); });
  for (std::size_t i = 0; i < others.size(); ++i) {
    compare(bundle, others[i], session.draw(others[i], BenchEvent::Kind::fidelity, i, others.size()), result);
  }
}

}  // namespace

void sleep_for_seconds(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

Memory measure_memory(const Bundle& bundle, Backend& backend, const Probes& probes, Chunks chunks,
                      const std::function<void(const BenchEvent&)>& progress) {
  Memory memory;
  memory.method = "VmRSS (baseline) and VmHWM (peak) of /proc/self/status; samples: Pss of /proc/self/smaps_rollup";
  memory.baseline_bytes = probes.resident_bytes();
  const auto start = Clock::now();
  {
    const Periodic sampler(kMemoryInterval, [&] {
      if (const auto bytes = probes.proportional_bytes()) memory.samples.push_back({seconds_since(start), *bytes});
    });
    Session(bundle, backend, chunks, progress).draw(bundle.manifest().golden.front(), BenchEvent::Kind::memory_pass, 0, 1);
  }
  memory.peak_bytes = probes.peak_bytes();
  return memory;
}

BenchResult run_bench(const Bundle& bundle, Backend& backend, Probes& probes, const BenchOptions& options,
                      const std::function<void(const BenchEvent&)>& progress) {
  const Protocol& protocol = options.protocol;
  check_protocol(protocol);
  const Manifest& manifest = bundle.manifest();
  if (manifest.golden.empty()) {
    throw Error(ErrorKind::bad_input, manifest.name + " has no golden run to compare with; convert the model again");
  }
  BenchResult result;
  Report& report = result.report;
  report.harness = kHarness;
  report.harness_version = kVersion;
  report.created = utc_now();
  report.device = probes.device();
  report.bundle_name = manifest.name;
  report.bundle_sha256 = bundle.sha256();
  report.target = manifest.target;
  for (const auto& [name, component] : manifest.components) {
    // Measured pictures come from noise: nothing runs the encoder, and nothing loads it.
    if (name == kVaeEncoder) continue;
    const bool is_chunk = std::find(manifest.chunks.begin(), manifest.chunks.end(), name) != manifest.chunks.end();
    report.backend[is_chunk ? "unet" : name] = backend.describe(component);
  }
  report.protocol = protocol;
  wait_until_cool(probes, options, progress);
  report.validity.unplugged = probes.unplugged();
  report.validity.low_power_mode_off = probes.low_power_mode_off();
  if (const auto state = probes.thermal().state) report.validity.thermal_nominal_at_start = *state == "nominal";

  const std::optional<std::int64_t> baseline = probes.resident_bytes();
  {
    Session session(bundle, backend, options.chunks, progress);
    report.timings.load_phases = session.load();
    for (const auto& [name, phases] : report.timings.load_phases) report.timings.load[name] = phases.at("first");
    for (std::int64_t run = 0; run < protocol.warmup_runs; ++run) {
      session.draw(manifest.golden.front(), BenchEvent::Kind::warmup, static_cast<std::size_t>(run),
                   static_cast<std::size_t>(protocol.warmup_runs));
    }
    measure(session, bundle, probes, options, result);
    draw_others(session, bundle, backend, result);
  }
  if (options.memory_launch) {
    report.memory.method = kNoLaunch;
    if (auto memory = options.memory_launch()) report.memory = std::move(*memory);
  } else {
    report.memory = measure_memory(bundle, backend, probes, options.chunks, progress);
    report.memory.baseline_bytes = baseline;
  }

  double measured_ms = 0;
  for (const double image : report.timings.image) measured_ms += image;
  report.validity.minimum_duration_met = measured_ms >= protocol.minimum_seconds * 1000.0;
  report.validity.fidelity_ok = std::all_of(report.fidelity.begin(), report.fidelity.end(), [&](const Fidelity& fidelity) {
    return is_faithful(fidelity, options);
  });
  if (report.validity.unplugged == true) report.validity.unplugged = probes.unplugged();
  explain_missing(report);
  return result;
}

void write_result(const std::filesystem::path& report_path, const BenchResult& result) {
  for (const auto& [id, picture] : result.pictures) {
    write_png(report_path.parent_path() / (report_path.stem().string() + "-" + id + ".png"), picture);
  }
  write_json(report_path, result.report.to_json());
}

}  // namespace s2p
