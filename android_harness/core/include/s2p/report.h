#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "s2p/statistics.h"

namespace s2p {

/// The measured machine.
struct Device {
  std::string model;
  std::string os;
  std::optional<std::string> soc;
  std::optional<std::int64_t> memory_bytes;
  std::optional<std::int64_t> cores;
};

struct Protocol {
  std::int64_t warmup_runs = 1;
  std::int64_t runs = 5;
  double cooldown_seconds = 0;  ///< rest before each measured picture
  double minimum_seconds = 60;  ///< measured pictures together should last at least so long
  std::optional<std::int64_t> threads;
};

/// Raw samples in milliseconds, in the order in which they were taken.
struct Timings {
  std::map<std::string, double> load;
  std::vector<double> text_encoder;
  std::vector<std::vector<double>> unet_call;
  std::vector<double> vae_decoder;
  std::vector<double> image;
  /// By component: `first`, and `cached`, a load after that one was dropped.
  std::map<std::string, std::map<std::string, double>> load_phases;
};

struct MemorySample {
  double seconds;
  std::int64_t bytes;
};

struct Memory {
  std::optional<std::int64_t> baseline_bytes;
  std::optional<std::int64_t> peak_bytes;
  std::string method;
  std::vector<MemorySample> samples;
  bool own_launch = false;  ///< in a process that did nothing else

  nlohmann::json to_json() const;
  /// What `to_json` wrote. Throws Error(invalid).
  static Memory read(const nlohmann::json& value);
};

struct ThermalSample {
  double seconds = 0;
  std::optional<std::string> state;
  std::map<std::string, double> celsius;
  std::optional<double> headroom;
};

struct EnergySample {
  double seconds = 0;
  std::optional<double> milliwatts;
  std::optional<double> battery_level;
};

struct Fidelity {
  std::string golden_id;
  Difference latents;
  std::optional<Difference> picture;
};

struct Validity {
  std::optional<bool> unplugged;
  std::optional<bool> low_power_mode_off;
  std::optional<bool> thermal_nominal_at_start;
  bool minimum_duration_met = false;
  bool fidelity_ok = false;
  std::optional<bool> foreground;
  std::optional<bool> unlocked;
  std::optional<bool> not_throttled;
};

/// Something that happened while pictures were measured.
struct RunEvent {
  double seconds;
  std::string kind;                  ///< background, foreground, lock, unlock or thermal
  std::optional<std::string> state;  ///< of thermal: the new one
};

/// report.json, field for field s2p_runtime.report.BenchReport. What could not be measured is null, and `missing` says why.
/// Engines here have no choice of compute units and do not tell where operators run: those two are always written empty.
struct Report {
  std::string harness;
  std::string harness_version;
  std::string created;
  Device device;
  std::string bundle_name;
  std::string bundle_sha256;
  std::string target;
  std::map<std::string, std::string> backend;
  Protocol protocol;
  Timings timings;
  Memory memory;
  std::vector<ThermalSample> thermal;
  std::vector<EnergySample> energy;
  std::vector<Fidelity> fidelity;
  Validity validity;
  std::map<std::string, std::string> missing;
  std::vector<RunEvent> events;

  nlohmann::json to_json() const;
};

/// Writes beside `path` and renames, so that the file is whole or absent. Throws Error(bad_input).
void write_json(const std::filesystem::path& path, const nlohmann::json& value);

/// The current time in UTC, ISO 8601.
std::string utc_now();

}  // namespace s2p
