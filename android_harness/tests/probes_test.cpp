#include "s2p/probes.h"

#include <cmath>

#include "fixtures.h"

namespace s2p {
namespace {

Probes tree(const std::string& name) {
  return Probes(SystemFiles(testing::kTrees / name), std::make_unique<PlatformSensors>(), [] { return 0.0; });
}

struct FakeSensors : PlatformSensors {
  std::optional<int> thermal_status() override { return status; }
  std::optional<double> thermal_headroom() override {
    ++headroom_questions;
    return 0.5;
  }
  std::optional<double> battery_current() override { return -308500.0; }
  std::optional<double> battery_millivolts() override { return 4000.0; }
  std::optional<double> battery_level() override { return 0.25; }
  std::optional<bool> unplugged() override { return on_battery; }
  std::optional<bool> low_power_mode_off() override { return true; }

  bool on_battery = false;
  int status = 0;
  int headroom_questions = 0;
};

// The same 812.5 mA at 4 V as systems tell it: in millionths or thousandths, of either sign.
TEST(Battery, TellsMicroFromMilli) {
  for (const double current : {812500.0, -812500.0, 812.5, -812.5}) {
    for (const double voltage : {4000000.0, 4000.0}) EXPECT_DOUBLE_EQ(battery_milliwatts(current, voltage).value(), 3250.0);
  }
  // The least and the most that a phone draws, 20 mA and 20 A, in either unit.
  EXPECT_DOUBLE_EQ(battery_milliwatts(20000, 4000).value(), 80.0);
  EXPECT_DOUBLE_EQ(battery_milliwatts(19999, 4000).value(), 79996.0);
  for (const auto& [current, voltage] : {std::pair{0.0, 4000.0}, {500.0, 0.0}, {500.0, -1.0}, {double{NAN}, 4000.0}}) {
    EXPECT_FALSE(battery_milliwatts(current, voltage).has_value());
  }
}

TEST(Probes, ReadAPixel) {
  Probes probes = tree("sysfs-pixel");
  const ThermalSample thermal = probes.thermal();
  // TPU (off, -273) and quiet_therm (0) give no reading; the second battery zone gets a name of its own.
  EXPECT_EQ(thermal.celsius, (std::map<std::string, double>{{"BIG", 41}, {"MID", 40}, {"LITTLE", 39}, {"G3D", 38}, {"battery", 29.4}, {"battery-2", 29.5}}));
  EXPECT_FALSE(thermal.state.has_value());
  EXPECT_FALSE(thermal.headroom.has_value());
  const EnergySample energy = probes.energy();
  EXPECT_DOUBLE_EQ(energy.milliwatts.value(), 3250.0);  // 0.8125 A at 4 V
  EXPECT_DOUBLE_EQ(energy.battery_level.value(), 0.83);
  EXPECT_EQ(probes.unplugged(), std::optional<bool>(true));
  EXPECT_EQ(probes.device().memory_bytes, std::optional<std::int64_t>(11863504LL * 1024));
}

TEST(Probes, ReadARaspberryPi5) {
  Probes probes = tree("sysfs-raspberry-pi-5");
  const ThermalSample thermal = probes.thermal();
  EXPECT_EQ(thermal.celsius, (std::map<std::string, double>{{"cpu-thermal", 52.65}}));
  EXPECT_EQ(thermal.state, "fair");  // above the first fan step, below all that slows it down
  EXPECT_FALSE(probes.energy().milliwatts.has_value());
  EXPECT_FALSE(probes.energy().battery_level.has_value());
  EXPECT_FALSE(probes.unplugged().has_value());
}

TEST(Probes, ReadAJetsonOrin) {
  Probes probes = tree("sysfs-jetson-orin");
  const ThermalSample thermal = probes.thermal();
  EXPECT_EQ(thermal.celsius, (std::map<std::string, double>{{"cpu-thermal", 47.5}, {"gpu-thermal", 46.968}, {"tj-thermal", 47.5}}));
  EXPECT_EQ(thermal.state, "nominal");
  EXPECT_DOUBLE_EQ(probes.energy().milliwatts.value(), 5.056 * 1240);  // VDD_IN alone, which feeds the others
}

#ifndef __ANDROID__
TEST(Probes, NameTheBoard) {
  const Device pi = tree("sysfs-raspberry-pi-5").device();
  EXPECT_EQ(pi.model, "Raspberry Pi 5 Model B Rev 1.0");
  EXPECT_EQ(pi.soc, "brcm,bcm2712");
  EXPECT_EQ(pi.os, "Debian GNU/Linux 12 (bookworm)");
  const Device jetson = tree("sysfs-jetson-orin").device();
  EXPECT_EQ(jetson.model, "NVIDIA Jetson Orin Nano Developer Kit");
  EXPECT_EQ(jetson.soc, "nvidia,tegra234");
}
#endif

TEST(Probes, ReadTheProcess) {
  const Probes probes = tree("sysfs-pixel");
  EXPECT_EQ(probes.resident_bytes(), std::optional<std::int64_t>(20480 * 1024));
  EXPECT_EQ(probes.peak_bytes(), std::optional<std::int64_t>(130048 * 1024));
  EXPECT_EQ(probes.proportional_bytes(), std::optional<std::int64_t>(18432 * 1024));
}

TEST(Probes, SayNothingWhereThereIsNothing) {
  const testing::TemporaryFolder empty;
  Probes probes(SystemFiles(empty.path()), std::make_unique<PlatformSensors>(), [] { return 0.0; });
  EXPECT_TRUE(probes.thermal().celsius.empty());
  EXPECT_FALSE(probes.thermal().state.has_value());
  EXPECT_FALSE(probes.energy().milliwatts.has_value());
  EXPECT_FALSE(probes.resident_bytes().has_value());
  EXPECT_FALSE(probes.peak_bytes().has_value());
  EXPECT_FALSE(probes.proportional_bytes().has_value());
  EXPECT_FALSE(probes.unplugged().has_value());
  EXPECT_FALSE(probes.device().memory_bytes.has_value());
}

TEST(Probes, ReportABatteryOnlyWhileItDischarges) {
  const testing::TemporaryFolder folder;
  testing::fs::copy(testing::kTrees / "sysfs-pixel", folder.path(), testing::fs::copy_options::recursive);
  testing::write_text(folder.path() / "sys/class/power_supply/battery/status", "Charging\n");
  testing::write_text(folder.path() / "sys/class/power_supply/usb/online", "1\n");
  Probes probes(SystemFiles(folder.path()), std::make_unique<PlatformSensors>(), [] { return 0.0; });
  EXPECT_FALSE(probes.energy().milliwatts.has_value());
  EXPECT_EQ(probes.unplugged(), std::optional<bool>(false));
}

TEST(Probes, TakeTheWorstTripPointThatWasPassed) {
  const std::pair<const char*, const char*> readings[] = {
      {"40000", "nominal"}, {"51000", "fair"}, {"76000", "fair"}, {"99500", "serious"}, {"120000", "critical"}};
  for (const auto& [millidegrees, state] : readings) {
    const testing::TemporaryFolder folder;
    testing::fs::copy(testing::kTrees / "sysfs-raspberry-pi-5", folder.path(), testing::fs::copy_options::recursive);
    const auto zone = folder.path() / "sys/class/thermal/thermal_zone0";
    testing::write_text(zone / "temp", millidegrees);
    testing::write_text(zone / "trip_point_5_type", "passive\n");
    testing::write_text(zone / "trip_point_5_temp", "99000\n");
    Probes probes(SystemFiles(folder.path()), std::make_unique<PlatformSensors>(), [] { return 0.0; });
    EXPECT_EQ(probes.thermal().state, state);
  }
}

TEST(Probes, PreferThePlatformsOwnSensors) {
  auto sensors = std::make_unique<FakeSensors>();
  FakeSensors* fake = sensors.get();
  Probes probes(SystemFiles(testing::kTrees / "sysfs-pixel"), std::move(sensors), [] { return 0.0; });
  const std::pair<int, const char*> states[] = {{0, "nominal"}, {1, "fair"}, {2, "fair"}, {3, "serious"}, {4, "critical"}, {6, "critical"}};
  for (const auto& [status, state] : states) {
    fake->status = status;
    EXPECT_EQ(probes.thermal().state, state);
  }
  EXPECT_FALSE(probes.energy().milliwatts.has_value());  // a charging battery's current says nothing
  fake->on_battery = true;
  EXPECT_DOUBLE_EQ(probes.energy().milliwatts.value(), 1234.0);
  fake->on_battery = false;
  EXPECT_DOUBLE_EQ(probes.energy().battery_level.value(), 0.25);
  EXPECT_EQ(probes.unplugged(), std::optional<bool>(false));
  EXPECT_EQ(probes.low_power_mode_off(), std::optional<bool>(true));
}

TEST(Probes, AskForTheHeadroomAtMostOnceASecond) {
  auto sensors = std::make_unique<FakeSensors>();
  FakeSensors* fake = sensors.get();
  double now = 10.0;
  Probes probes(SystemFiles("/nowhere"), std::move(sensors), [&] { return now; });
  EXPECT_TRUE(probes.thermal().headroom.has_value());
  now = 10.9;
  EXPECT_FALSE(probes.thermal().headroom.has_value());
  now = 11.0;
  EXPECT_TRUE(probes.thermal().headroom.has_value());
  EXPECT_EQ(fake->headroom_questions, 2);
}

}  // namespace
}  // namespace s2p
