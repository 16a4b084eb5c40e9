#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "s2p/platform_sensors.h"
#include "s2p/report.h"
#include "s2p/system_files.h"

namespace s2p {

/// Power of a battery from what a system says of it. Android and the kernel define microamperes and microvolts, some makers give
/// thousandths of that: a phone at work draws between 20 mA and 20 A and its battery has between 1 and 100 V, so the size tells.
/// Makers disagree on the sign, too. Nothing for a current of 0, which stands for "no reading".
std::optional<double> battery_milliwatts(double current, double voltage);

/// Reads the machine. The platform's own sensors come first, then the files of /proc and /sys. What neither tells is
/// absent; a reading of exactly 0 or outside what a sensor can mean counts as absent too.
class Probes {
 public:
  /// `now` gives seconds of a monotonic clock; it keeps the thermal headroom to one question a second.
  Probes(SystemFiles files, std::unique_ptr<PlatformSensors> sensors, std::function<double()> now);

  Device device() const;

  /// VmRSS of this process.
  std::optional<std::int64_t> resident_bytes() const;
  /// VmHWM of this process.
  std::optional<std::int64_t> peak_bytes() const;
  /// Pss of this process (shared pages counted in proportion).
  std::optional<std::int64_t> proportional_bytes() const;

  /// `seconds` is left 0 for the caller to set.
  ThermalSample thermal();
  EnergySample energy();

  std::optional<bool> unplugged();
  std::optional<bool> low_power_mode_off() { return sensors_->low_power_mode_off(); }
  std::optional<bool> foreground() { return sensors_->foreground(); }
  std::optional<bool> unlocked() { return sensors_->unlocked(); }

 private:
  std::map<std::string, double> zone_temperatures() const;
  std::optional<std::string> thermal_state();
  std::optional<std::string> trip_state() const;
  std::optional<double> rail_milliwatts() const;
  std::optional<double> drawn_milliwatts();
  std::optional<std::string> battery_folder() const;

  SystemFiles files_;
  std::unique_ptr<PlatformSensors> sensors_;
  std::function<double()> now_;
  std::optional<double> last_headroom_seconds_;
};

}  // namespace s2p
