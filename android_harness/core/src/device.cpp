#include <unistd.h>

#include <sstream>

#include "s2p/probes.h"

#ifdef __ANDROID__
#include <sys/system_properties.h>
#else
#include <sys/utsname.h>
#endif

namespace s2p {
namespace {

#ifdef __ANDROID__
std::optional<std::string> property(const char* name) {
  char value[PROP_VALUE_MAX] = "";
  return __system_property_get(name, value) > 0 ? std::optional<std::string>(value) : std::nullopt;
}
#endif

/// NAME=value or NAME="value" of an os-release file.
std::optional<std::string> release_field(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    if (line.compare(0, name.size() + 1, name + "=") != 0) continue;
    std::string value = line.substr(name.size() + 1);
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"') value = value.substr(1, value.size() - 2);
    return value;
  }
  return std::nullopt;
}

/// The value of the first "key : value" line of /proc/cpuinfo.
std::optional<std::string> cpu_field(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    const std::size_t colon = line.find(": ");
    if (line.compare(0, key.size(), key) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return std::nullopt;
}

/// Device trees list "maker,board" first and "maker,chip" last, separated by NULs.
std::string last_entry(const std::string& compatible) { return compatible.substr(compatible.find_last_of('\0') + 1); }

}  // namespace

Device Probes::device() const {
  Device device;
  const auto memory = files_.text("proc/meminfo");
  if (memory) device.memory_bytes = kilobyte_field(*memory, "MemTotal");
  const long cores = sysconf(_SC_NPROCESSORS_CONF);
  if (cores > 0) device.cores = cores;
#ifdef __ANDROID__
  device.model = property("ro.product.manufacturer").value_or("unknown") + " " + property("ro.product.model").value_or("device");
  device.os = "Android " + property("ro.build.version.release").value_or("unknown");
  device.soc = property("ro.soc.model");
#else
  const auto tree_model = files_.text("proc/device-tree/model");
  const auto compatible = files_.text("proc/device-tree/compatible");
  const auto cpus = files_.text("proc/cpuinfo");
  const auto release = files_.text("etc/os-release");
  utsname names{};
  uname(&names);
  device.model = tree_model ? *tree_model : files_.text("sys/class/dmi/id/product_name").value_or("unknown " + std::string(names.machine));
  device.os = (release ? release_field(*release, "PRETTY_NAME") : std::nullopt).value_or(names.sysname);
  if (compatible) device.soc = last_entry(*compatible);
  if (!device.soc && cpus) device.soc = cpu_field(*cpus, "model name");
#endif
  return device;
}

}  // namespace s2p
