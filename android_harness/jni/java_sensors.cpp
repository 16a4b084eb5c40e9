#include "java_sensors.h"

#include <cmath>

namespace s2p {

std::optional<double> JavaSensors::ask(const char* method) const {
  const JavaEnv env(sensors_.machine());
  const double value = env->CallDoubleMethod(sensors_.get(), sensors_.method(env.get(), method, "()D"));
  if (env->ExceptionCheck() == JNI_TRUE) {
    env->ExceptionClear();
    return std::nullopt;
  }
  return std::isfinite(value) ? std::optional<double>(value) : std::nullopt;
}

std::optional<int> JavaSensors::ask_integer(const char* method) const {
  const JavaEnv env(sensors_.machine());
  const jint value = env->CallIntMethod(sensors_.get(), sensors_.method(env.get(), method, "()I"));
  if (env->ExceptionCheck() == JNI_TRUE) {
    env->ExceptionClear();
    return std::nullopt;
  }
  return value >= 0 ? std::optional<int>(value) : std::nullopt;
}

std::optional<bool> JavaSensors::ask_whether(const char* method) const {
  const auto answer = ask_integer(method);
  return answer ? std::optional<bool>(*answer != 0) : std::nullopt;
}

std::optional<int> JavaSensors::thermal_status() { return ask_integer("thermalStatus"); }

}  // namespace s2p
