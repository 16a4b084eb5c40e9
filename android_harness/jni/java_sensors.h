#pragma once

#include <jni.h>

#include "java_env.h"
#include "s2p/platform_sensors.h"

namespace s2p {

/// Asks the app's Sensors (Kotlin). NaN, or a negative number for a yes or no, means that there is no reading.
class JavaSensors : public PlatformSensors {
 public:
  JavaSensors(JNIEnv* env, jobject sensors) : sensors_(env, sensors) {}

  std::optional<int> thermal_status() override;
  std::optional<double> thermal_headroom() override { return ask("thermalHeadroom"); }
  std::optional<double> battery_current() override { return ask("batteryCurrent"); }
  std::optional<double> battery_millivolts() override { return ask("batteryMillivolts"); }
  std::optional<double> battery_level() override { return ask("batteryLevel"); }
  std::optional<bool> unplugged() override { return ask_whether("unplugged"); }
  std::optional<bool> low_power_mode_off() override { return ask_whether("lowPowerModeOff"); }
  std::optional<bool> foreground() override { return ask_whether("foreground"); }
  std::optional<bool> unlocked() override { return ask_whether("unlocked"); }

 private:
  std::optional<double> ask(const char* method) const;
  std::optional<int> ask_integer(const char* method) const;
  std::optional<bool> ask_whether(const char* method) const;

  JavaObject sensors_;
};

}  // namespace s2p
