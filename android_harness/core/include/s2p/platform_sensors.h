#pragma once

#include <memory>
#include <optional>

namespace s2p {

/// What only the platform's own interfaces can tell. Every reading may be absent.
class PlatformSensors {
 public:
  virtual ~PlatformSensors() = default;

  /// AThermalStatus: 0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown.
  virtual std::optional<int> thermal_status() { return std::nullopt; }

  /// Fraction of the way to the severe threshold (1.0); called at most once a second.
  virtual std::optional<double> thermal_headroom() { return std::nullopt; }

  /// Current of the battery as the system gives it: microamperes, on some phones milliamperes, of either sign.
  virtual std::optional<double> battery_current() { return std::nullopt; }
  virtual std::optional<double> battery_millivolts() { return std::nullopt; }

  /// In [0, 1].
  virtual std::optional<double> battery_level() { return std::nullopt; }

  virtual std::optional<bool> unplugged() { return std::nullopt; }
  virtual std::optional<bool> low_power_mode_off() { return std::nullopt; }

  /// Whether the app was in front all the time since the last question.
  virtual std::optional<bool> foreground() { return std::nullopt; }
  /// Whether the screen was unlocked all the time since the last question.
  virtual std::optional<bool> unlocked() { return std::nullopt; }
};

/// AThermal on Android (looked up at run time, so the program starts on every API level); no sensors elsewhere.
std::unique_ptr<PlatformSensors> native_sensors();

}  // namespace s2p
