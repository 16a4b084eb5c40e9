#include "s2p/probes.h"

#include <cmath>

namespace s2p {
namespace {

constexpr const char* kThermalFolder = "sys/class/thermal";
constexpr const char* kHwmonFolder = "sys/class/hwmon";
constexpr const char* kSupplyFolder = "sys/class/power_supply";
constexpr double kHeadroomIntervalSeconds = 1.0;
constexpr double kLeastMicroamperes = 20'000;
constexpr double kLeastMicrovolts = 100'000;

/// A zone that is switched off reads 0 or far outside of this.
bool is_temperature(double celsius) { return celsius != 0.0 && celsius > -40.0 && celsius < 200.0; }

/// A name that `taken` does not have yet: name, name-2, name-3, ...
std::string unique_name(const std::map<std::string, double>& taken, const std::string& name) {
  std::string candidate = name;
  for (int n = 2; taken.count(candidate) != 0; ++n) candidate = name + "-" + std::to_string(n);
  return candidate;
}

}  // namespace

std::optional<double> battery_milliwatts(double current, double voltage) {
  const double amount = std::abs(current);
  if (amount == 0 || voltage <= 0 || !std::isfinite(amount) || !std::isfinite(voltage)) return std::nullopt;
  const double milliamperes = amount >= kLeastMicroamperes ? amount / 1000.0 : amount;
  const double millivolts = voltage >= kLeastMicrovolts ? voltage / 1000.0 : voltage;
  return milliamperes * millivolts / 1000.0;
}

Probes::Probes(SystemFiles files, std::unique_ptr<PlatformSensors> sensors, std::function<double()> now)
    : files_(std::move(files)), sensors_(std::move(sensors)), now_(std::move(now)) {}

std::optional<std::int64_t> Probes::resident_bytes() const {
  const auto status = files_.text("proc/self/status");
  return status ? kilobyte_field(*status, "VmRSS") : std::nullopt;
}

std::optional<std::int64_t> Probes::peak_bytes() const {
  const auto status = files_.text("proc/self/status");
  return status ? kilobyte_field(*status, "VmHWM") : std::nullopt;
}

std::optional<std::int64_t> Probes::proportional_bytes() const {
  const auto rollup = files_.text("proc/self/smaps_rollup");
  return rollup ? kilobyte_field(*rollup, "Pss") : std::nullopt;
}

ThermalSample Probes::thermal() {
  ThermalSample sample;
  sample.state = thermal_state();
  sample.celsius = zone_temperatures();
  const double now = now_();
  if (!last_headroom_seconds_ || now - *last_headroom_seconds_ >= kHeadroomIntervalSeconds) {
    sample.headroom = sensors_->thermal_headroom();
    last_headroom_seconds_ = now;
  }
  return sample;
}

std::optional<std::string> Probes::thermal_state() {
  if (const auto status = sensors_->thermal_status()) {
    if (*status == 0) return "nominal";
    if (*status <= 2) return "fair";
    return *status == 3 ? "serious" : "critical";
  }
  return trip_state();
}

std::optional<std::string> Probes::trip_state() const {
  // Trip points of the kernel: active starts a fan, passive and hot slow the machine down, critical switches it off.
  static const std::map<std::string, int> severity = {{"active", 1}, {"passive", 2}, {"hot", 2}, {"critical", 3}};
  static constexpr const char* states[] = {"nominal", "fair", "serious", "critical"};
  std::optional<int> worst;
  for (const std::string& zone : files_.list(kThermalFolder, "thermal_zone")) {
    const std::string folder = std::string(kThermalFolder) + "/" + zone;
    const auto temperature = files_.number(folder + "/temp");
    if (!temperature || !is_temperature(*temperature / 1000.0)) continue;
    for (int trip = 0;; ++trip) {
      const std::string prefix = folder + "/trip_point_" + std::to_string(trip);
      const auto type = files_.text(prefix + "_type");
      if (!type) break;
      const auto threshold = files_.number(prefix + "_temp");
      const auto found = severity.find(*type);
      if (found == severity.end() || !threshold || *threshold <= 0) continue;
      if (!worst) worst = 0;
      if (*temperature >= *threshold) worst = std::max(*worst, found->second);
    }
  }
  return worst ? std::optional<std::string>(states[*worst]) : std::nullopt;
}

std::map<std::string, double> Probes::zone_temperatures() const {
  std::map<std::string, double> temperatures;
  for (const std::string& zone : files_.list(kThermalFolder, "thermal_zone")) {
    const std::string folder = std::string(kThermalFolder) + "/" + zone;
    const auto millidegrees = files_.number(folder + "/temp");
    if (!millidegrees || !is_temperature(*millidegrees / 1000.0)) continue;
    temperatures[unique_name(temperatures, files_.text(folder + "/type").value_or(zone))] = *millidegrees / 1000.0;
  }
  return temperatures;
}

EnergySample Probes::energy() {
  EnergySample sample;
  sample.milliwatts = rail_milliwatts();
  if (!sample.milliwatts) sample.milliwatts = drawn_milliwatts();
  sample.battery_level = sensors_->battery_level();
  if (!sample.battery_level) {
    const auto battery = battery_folder();
    const auto percent = battery ? files_.number(*battery + "/capacity") : std::nullopt;
    if (percent && *percent >= 0 && *percent <= 100) sample.battery_level = *percent / 100.0;
  }
  return sample;
}

std::optional<double> Probes::rail_milliwatts() const {
  // INA3221 of a Jetson: millivolts x milliamperes per rail, the board's whole input being VDD_IN; the other rails are fed
  // from it. A monitor that gives power1_input gives it in microwatts.
  std::optional<double> sum;
  for (const std::string& monitor : files_.list(kHwmonFolder, "hwmon")) {
    const std::string folder = std::string(kHwmonFolder) + "/" + monitor + "/";
    if (files_.text(folder + "name").value_or("").compare(0, 3, "ina") != 0) continue;
    if (const auto microwatts = files_.number(folder + "power1_input")) {
      if (*microwatts > 0) sum = sum.value_or(0) + *microwatts / 1000.0;
      continue;
    }
    std::optional<double> rails;
    for (int channel = 1; channel <= 3; ++channel) {
      const std::string n = std::to_string(channel);
      const auto millivolts = files_.number(folder + "in" + n + "_input");
      const auto milliamperes = files_.number(folder + "curr" + n + "_input");
      if (!millivolts || !milliamperes) continue;
      const double milliwatts = *millivolts * *milliamperes / 1000.0;
      if (files_.text(folder + "in" + n + "_label").value_or("") == "VDD_IN") return milliwatts;
      if (milliwatts > 0) rails = rails.value_or(0) + milliwatts;
    }
    if (rails) sum = sum.value_or(0) + *rails;
  }
  return sum;
}

std::optional<std::string> Probes::battery_folder() const {
  for (const std::string& supply : files_.list(kSupplyFolder, "")) {
    const std::string folder = std::string(kSupplyFolder) + "/" + supply;
    // A "Device" scope is the battery of a mouse or keyboard.
    const bool own = files_.text(folder + "/scope").value_or("System") == "System";
    if (own && files_.text(folder + "/type").value_or("") == "Battery") return folder;
  }
  return std::nullopt;
}

std::optional<double> Probes::drawn_milliwatts() {
  // While it charges, the battery's current says nothing about what the device draws.
  const auto current = sensors_->battery_current();
  const auto millivolts = sensors_->battery_millivolts();
  if (current && millivolts) return sensors_->unplugged() == true ? battery_milliwatts(*current, *millivolts) : std::nullopt;
  const auto battery = battery_folder();
  if (!battery || files_.text(*battery + "/status").value_or("") != "Discharging") return std::nullopt;
  const auto now = files_.number(*battery + "/current_now");
  const auto voltage = files_.number(*battery + "/voltage_now");
  return now && voltage ? battery_milliwatts(*now, *voltage) : std::nullopt;
}

std::optional<bool> Probes::unplugged() {
  if (const auto known = sensors_->unplugged()) return known;
  if (!battery_folder()) return std::nullopt;
  std::optional<bool> plugged;
  for (const std::string& supply : files_.list(kSupplyFolder, "")) {
    const std::string folder = std::string(kSupplyFolder) + "/" + supply;
    if (files_.text(folder + "/type").value_or("Battery") == "Battery") continue;
    if (const auto online = files_.number(folder + "/online")) plugged = plugged.value_or(false) || *online != 0;
  }
  return plugged ? std::optional<bool>(!*plugged) : std::nullopt;
}

}  // namespace s2p
