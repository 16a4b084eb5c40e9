#include "s2p/bench.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <set>
#include <thread>

#include "fixtures.h"
#include "s2p/affinity.h"
#include "s2p/periodic.h"
#include "s2p/replay_backend.h"
#include "s2p/safetensors.h"

namespace s2p {
namespace {

using testing::kind_thrown;

/// The replay with something done to the U-Net's outputs.
class ChangedBackend : public ReplayBackend {
 public:
  using Change = std::function<void(std::vector<float>&)>;
  ChangedBackend(const Bundle& bundle, Change change) : ReplayBackend(bundle), change_(std::move(change)) {}
  std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
    auto program = ReplayBackend::load(name, component, file);
    if (name != "unet") return program;
    return std::make_unique<Changed>(std::move(program), change_);
  }

 private:
  struct Changed : Program {
    Changed(std::unique_ptr<Program> program, Change change) : inner(std::move(program)), apply(std::move(change)) {}
    std::vector<float> run(const std::vector<TensorView>& inputs) override {
      auto output = inner->run(inputs);
      apply(output);
      return output;
    }
    std::unique_ptr<Program> inner;
    Change apply;
  };
  Change change_;
};

struct OffBackend : ChangedBackend {
  OffBackend(const Bundle& bundle, float offset)
      : ChangedBackend(bundle, [offset](std::vector<float>& output) {
          for (float& x : output) x += offset;
        }) {}
};

struct SlowBackend : ChangedBackend {
  SlowBackend(const Bundle& bundle, std::chrono::milliseconds delay)
      : ChangedBackend(bundle, [delay](std::vector<float>&) { std::this_thread::sleep_for(delay); }) {}
};

/// Draws every prompt, all with the U-Net outputs of the first golden run.
struct OneTrackBackend : ReplayBackend {
  explicit OneTrackBackend(const Bundle& bundle) : ReplayBackend(bundle) {}
  struct AnyText : Program {
    std::vector<float> run(const std::vector<TensorView>&) override { return std::vector<float>(size); }
    std::size_t size = 0;
  };
  std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
    if (name != "text_encoder") return ReplayBackend::load(name, component, file);
    auto any = std::make_unique<AnyText>();
    any->size = element_count(component.outputs.at(0).shape);
    return any;
  }
  bool can_draw(const GoldenRun&) const override { return true; }
};

class Bench : public ::testing::Test {
 protected:
  BenchResult measure(const Bundle& bundle, Backend& backend, const Protocol& protocol) {
    Probes probes(SystemFiles(testing::kTrees / "sysfs-jetson-orin"), std::make_unique<PlatformSensors>(), [] { return 0.0; });
    BenchOptions options;
    options.protocol = protocol;
    return run_bench(bundle, backend, probes, options,
                     [this](const BenchEvent& event) { events_.push_back(event); });
  }

  Report run(Backend& backend, const Protocol& protocol) { return measure(bundle_, backend, protocol).report; }

  std::size_t count(BenchEvent::Kind kind) const {
    std::size_t n = 0;
    for (const BenchEvent& event : events_) n += event.kind == kind;
    return n;
  }

  const Bundle bundle_ = Bundle::open(testing::kFixtures / "ancestral.s2pmobile");
  std::vector<BenchEvent> events_;
};

TEST_F(Bench, FollowsTheProtocol) {
  ReplayBackend backend(bundle_);
  const Report report = run(backend, {2, 3, 0, 0, 4});
  EXPECT_EQ(count(BenchEvent::Kind::loaded), 1u);
  EXPECT_EQ(count(BenchEvent::Kind::warmup), 2u);
  EXPECT_EQ(count(BenchEvent::Kind::image), 3u);
  EXPECT_EQ(count(BenchEvent::Kind::memory_pass), 1u);
  EXPECT_EQ(report.timings.image.size(), 3u);
  EXPECT_EQ(report.timings.text_encoder.size(), 3u);
  EXPECT_EQ(report.timings.unet_call.size(), 3u);
  for (const auto& calls : report.timings.unet_call) EXPECT_EQ(calls.size(), 6u);
  EXPECT_EQ(report.to_json()["summary_ms"]["unet_call"]["count"], 18);
  EXPECT_EQ(report.to_json()["protocol"]["threads"], 4);
}

// Slow calls are told of, about once a second; fast ones not at all, because telling takes time, too.
TEST_F(Bench, TellsOfOneCallASecond) {
  SlowBackend slow(bundle_, std::chrono::milliseconds(250));
  run(slow, {0, 1, 0, 0, 1});
  const std::size_t pictures = 2;  // the measured one and the memory pass, at least 1.5 s each
  EXPECT_GE(count(BenchEvent::Kind::call), pictures);
  EXPECT_LT(count(BenchEvent::Kind::call), pictures * bundle_.manifest().plan.calls.size());
}

TEST_F(Bench, ReportsTheMachineAndTheReasonsForWhatIsMissing) {
  ReplayBackend backend(bundle_);
  const nlohmann::json report = run(backend, {0, 1, 0, 0, std::nullopt}).to_json();
  EXPECT_EQ(report["device"]["model"], "NVIDIA Jetson Orin Nano Developer Kit");
  EXPECT_EQ(report["memory"]["peak_bytes"], 130048 * 1024);
  EXPECT_GE(report["thermal"].size(), 2u);
  EXPECT_EQ(report["thermal"][0]["celsius"]["tj-thermal"], 47.5);
  EXPECT_TRUE(report["validity"]["thermal_nominal_at_start"]);
  EXPECT_TRUE(report["validity"]["unplugged"].is_null());
  for (const char* path : {"validity.unplugged", "energy.battery_level", "thermal.headroom", "protocol.threads"}) {
    EXPECT_TRUE(report["missing"].contains(path)) << path;
  }
  EXPECT_FALSE(report["missing"].contains("energy.milliwatts"));
}

TEST_F(Bench, ComparesWithTheGoldenRun) {
  ReplayBackend exact(bundle_);
  const Report same = run(exact, {0, 1, 0, 0, 1});
  EXPECT_TRUE(same.validity.fidelity_ok);
  EXPECT_EQ(same.fidelity.at(0).latents.max_abs, 0.0);
  OffBackend wrong(bundle_, 1.0f);
  const Report off = run(wrong, {0, 1, 0, 0, 1});
  EXPECT_FALSE(off.validity.fidelity_ok);
  // The plan is linear: a constant added to every output moves the latents by the sum of the output coefficients.
  double sum = 0;
  for (const PlanCall& call : bundle_.manifest().plan.calls) sum += call.outputs.at(0).coefficient;
  EXPECT_NEAR(off.fidelity.at(0).latents.max_abs, std::abs(sum), 1e-4);  // float32 states of magnitude 10
  OffBackend broken(bundle_, NAN);
  EXPECT_EQ(kind_thrown([&] { run(broken, {0, 1, 0, 0, 1}); }), "check_failed");
}

/// The replay with another decoder.
struct WrongDecoder : ReplayBackend {
  using ReplayBackend::ReplayBackend;
  struct Negative : Program {
    explicit Negative(std::unique_ptr<Program> program) : inner(std::move(program)) {}
    std::vector<float> run(const std::vector<TensorView>& inputs) override {
      auto output = inner->run(inputs);
      for (float& value : output) value = -value;
      return output;
    }
    std::unique_ptr<Program> inner;
  };
  std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
    auto program = ReplayBackend::load(name, component, file);
    if (name != "vae_decoder") return program;
    return std::make_unique<Negative>(std::move(program));
  }
};

TEST_F(Bench, FindsAWrongDecoderBehindRightLatents) {
  WrongDecoder backend(bundle_);
  const Report report = run(backend, {0, 1, 0, 0, 1});
  EXPECT_EQ(report.fidelity.at(0).latents.max_abs, 0.0);
  EXPECT_LT(report.fidelity.at(0).picture->psnr_db.value(), kDefaultPictureFloorDb);
  EXPECT_FALSE(report.validity.fidelity_ok);
}

TEST_F(Bench, TellsFirstAndCachedLoadsApart) {
  struct Slower : ReplayBackend {
    using ReplayBackend::ReplayBackend;
    std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
      if (name == "unet" && loads++ == 0) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      return ReplayBackend::load(name, component, file);
    }
    int loads = 0;
  } backend(bundle_);
  const nlohmann::json report = run(backend, {0, 1, 0, 0, 1}).to_json();
  const auto& phases = report["timings_ms"]["load_phases"];
  EXPECT_EQ(backend.loads, 3);  // first, cached, and the memory pass
  EXPECT_EQ(phases.size(), 3u);
  EXPECT_GE(phases["unet"]["first"].get<double>(), 50.0);
  EXPECT_EQ(report["timings_ms"]["load"]["unet"], phases["unet"]["first"]);
  EXPECT_TRUE(phases["vae_decoder"].contains("cached"));
}

/// A phone whose sensors say what a test gives them, one reading a question, the last one for ever.
struct PhoneSensors : PlatformSensors {
  std::optional<int> thermal_status() override { return next(status); }
  std::optional<bool> foreground() override { return next(front); }
  std::optional<bool> unlocked() override { return true; }
  template <typename T>
  static T next(std::vector<T>& readings) {
    const T reading = readings.front();
    if (readings.size() > 1) readings.erase(readings.begin());
    return reading;
  }
  std::vector<int> status = {0};
  std::vector<bool> front = {true};
};

TEST_F(Bench, TellsWhatHappenedToThePhone) {
  ReplayBackend backend(bundle_);
  const auto measured = [&](std::vector<int> status, std::vector<bool> front, std::optional<double> cool = 0) {
    auto sensors = std::make_unique<PhoneSensors>();
    sensors->status = std::move(status);
    sensors->front = std::move(front);
    Probes probes(SystemFiles(testing::kTrees / "sysfs-jetson-orin"), std::move(sensors), [] { return 0.0; });
    BenchOptions options;
    options.protocol = {0, 1, 0, 0, 1};
    if (cool) options.cool_seconds = *cool;
    options.rest = [](double) {};
    return run_bench(bundle_, backend, probes, options, [this](const BenchEvent& event) { events_.push_back(event); }).report.to_json();
  };
  // Asked before anything is loaded, at the first measured picture, and behind the last.
  const auto calm = measured({0}, {true});
  EXPECT_EQ(calm["events"], nlohmann::json::array());
  for (const char* name : {"foreground", "unlocked", "not_throttled"}) EXPECT_EQ(calm["validity"][name], true) << name;
  const auto eventful = measured({0, 0, 3}, {false, true});
  EXPECT_EQ(eventful["validity"]["foreground"], false);
  EXPECT_EQ(eventful["validity"]["not_throttled"], false);
  std::vector<std::string> kinds;
  for (const auto& event : eventful["events"]) kinds.push_back(event["kind"]);
  EXPECT_EQ(kinds, (std::vector<std::string>{"background", "foreground", "thermal"}));
  EXPECT_EQ(eventful["events"][2]["state"], "serious");
  EXPECT_EQ(count(BenchEvent::Kind::waiting), 0u);
  // Warm, warm, cool: it waits twice, then the state at the start is nominal. That is so unless another time is asked for.
  const auto waited = measured({2, 2, 0}, {true}, std::nullopt);
  EXPECT_EQ(count(BenchEvent::Kind::waiting), 2u);
  EXPECT_EQ(waited["validity"]["thermal_nominal_at_start"], true);
  EXPECT_EQ(measured({2, 2, 0}, {true}, 0)["validity"]["thermal_nominal_at_start"], false);
  EXPECT_EQ(count(BenchEvent::Kind::waiting), 2u);
}

TEST_F(Bench, WaitsForTenMinutesAtMostAndNotAtAllForABoardWithoutThermalSensors) {
  ReplayBackend backend(bundle_);
  const auto waited = [&](std::unique_ptr<PlatformSensors> sensors, const testing::fs::path& root) {
    Probes probes(SystemFiles(root), std::move(sensors), [] { return 0.0; });
    BenchOptions options;
    options.protocol = {0, 1, 0, 0, 1};
    int rests = 0;
    options.rest = [&](double) { ++rests; };
    // Time does not pass in this rest, so the wait is broken off here.
    const auto progress = [&](const BenchEvent& event) {
      events_.push_back(event);
      if (rests == 3) throw Error(ErrorKind::check_failed, "enough");
    };
    const std::string kind = kind_thrown([&] { run_bench(bundle_, backend, probes, options, progress); });
    return std::pair(kind, rests);
  };
  auto hot = std::make_unique<PhoneSensors>();
  hot->status = {3};
  EXPECT_EQ(waited(std::move(hot), testing::kTrees / "sysfs-pixel"), (std::pair<std::string, int>("check_failed", 3)));
  EXPECT_EQ(events_.back().total, 600u);
  EXPECT_EQ(waited(std::make_unique<PlatformSensors>(), "/nowhere"), (std::pair<std::string, int>("none", 0)));
}

// A board or phone that rests draws little: a mean over these readings, too, would flatter it.
TEST_F(Bench, TakesPowerFromPicturesAndNotFromTheRestsBetween) {
  struct Working : PhoneSensors {
    explicit Working(std::atomic<int>& looks, std::atomic<bool>& works) : looks(looks), works(works) {}
    std::optional<int> thermal_status() override { return ++looks, 0; }
    std::optional<bool> unplugged() override { return true; }
    std::optional<double> battery_millivolts() override { return 4000; }
    std::optional<double> battery_current() override { return works ? 2'000'000 : 100'000; }
    std::atomic<int>& looks;
    std::atomic<bool>& works;
  };
  std::atomic<int> looks = 0;
  std::atomic<bool> works = false;
  ReplayBackend backend(bundle_);
  Probes probes(SystemFiles(testing::kTrees / "sysfs-pixel"), std::make_unique<Working>(looks, works), [] { return 0.0; });
  BenchOptions options;
  options.protocol = {0, 2, 5, 0, 1};
  int rests = 0;
  options.rest = [&](double seconds) {
    EXPECT_EQ(seconds, 5.0);
    ++rests;
    works = false;
    // The sensors' thread looks at least once in each rest.
    for (const int seen = looks; looks == seen;) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    // Whoever reads power now reads it before the work goes on.
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    works = true;
  };
  const Report report = run_bench(bundle_, backend, probes, options, [](const BenchEvent&) {}).report;
  EXPECT_EQ(rests, 2);
  // At the start, in each rest, and behind the last picture: heat is looked at every time.
  EXPECT_GE(report.thermal.size(), 4u);
  ASSERT_GE(report.energy.size(), 1u);
  for (const EnergySample& sample : report.energy) EXPECT_EQ(sample.milliwatts, 8000.0);
}

TEST_F(Bench, TakesMemoryFromALaunchOfItsOwn) {
  ReplayBackend backend(bundle_);
  Probes probes(SystemFiles(testing::kTrees / "sysfs-jetson-orin"), std::make_unique<PlatformSensors>(), [] { return 0.0; });
  BenchOptions options;
  options.protocol = {0, 1, 0, 0, 1};
  Memory apart{1, 2, "told", {{0.5, 2}}, true};
  options.memory_launch = [&] { return std::optional(Memory::read(apart.to_json())); };
  const auto progress = [this](const BenchEvent& event) { events_.push_back(event); };
  const auto report = run_bench(bundle_, backend, probes, options, progress).report.to_json();
  EXPECT_EQ(report["memory"], apart.to_json());
  EXPECT_EQ(report["memory"]["own_launch"], true);
  EXPECT_EQ(count(BenchEvent::Kind::memory_pass), 0u);
  options.memory_launch = [] { return std::nullopt; };
  const auto lost = run_bench(bundle_, backend, probes, options, progress).report.to_json();
  EXPECT_TRUE(lost["memory"]["peak_bytes"].is_null());
  EXPECT_NE(lost["missing"]["memory.peak_bytes"].get<std::string>().find("memory ran out"), std::string::npos);
  EXPECT_FALSE(lost["summary_ms"].empty());
}

TEST_F(Bench, AsksForEveryGoldenRun) {
  const Bundle bundle = Bundle::open(testing::kFixtures / "replay.s2pmobile");
  OneTrackBackend backend(bundle);
  const BenchResult result = measure(bundle, backend, {0, 2, 0, 0, 1});
  EXPECT_EQ(count(BenchEvent::Kind::fidelity), 1u);
  EXPECT_EQ(result.report.timings.image.size(), 2u);
  ASSERT_EQ(result.report.fidelity.size(), 2u);
  EXPECT_EQ(result.report.fidelity[0].latents.max_abs, 0.0);
  EXPECT_GT(result.report.fidelity[1].latents.max_abs, 0.1);  // another seed's latents, of standard deviation about 1
  EXPECT_FALSE(result.report.validity.fidelity_ok);
}

TEST_F(Bench, LeavesOutGoldenRunsThatTheEngineCannotDraw) {
  const Bundle bundle = Bundle::open(testing::kFixtures / "replay.s2pmobile");
  ReplayBackend backend(bundle);
  const BenchResult result = measure(bundle, backend, {0, 1, 0, 0, 1});
  EXPECT_EQ(result.report.fidelity.size(), 1u);
  EXPECT_TRUE(result.report.validity.fidelity_ok);
}

TEST_F(Bench, SaysWhenItWasTooShortToTrust) {
  ReplayBackend backend(bundle_);
  EXPECT_FALSE(run(backend, {0, 1, 0, 3600, 1}).validity.minimum_duration_met);
  EXPECT_TRUE(run(backend, {0, 1, 0, 0, 1}).validity.minimum_duration_met);
}

TEST_F(Bench, RefusesAProtocolThatMakesNoSense) {
  ReplayBackend backend(bundle_);
  for (const Protocol& protocol : {Protocol{0, 0, 0, 0, 1}, Protocol{-1, 1, 0, 0, 1}, Protocol{0, 1, -1, 0, 1}, Protocol{0, 1, 0, NAN, 1}}) {
    EXPECT_EQ(kind_thrown([&] { run(backend, protocol); }), "bad_input");
  }
}

TEST_F(Bench, WritesAWholeReportWithItsPicturesOrNone) {
  const Bundle bundle = Bundle::open(testing::kFixtures / "replay.s2pmobile");
  OneTrackBackend backend(bundle);
  BenchResult result = measure(bundle, backend, {0, 1, 0, 0, 1});
  result.report.device.soc = "broken \xff name";
  const testing::TemporaryFolder folder;
  write_result(folder.path() / "phone.json", result);
  EXPECT_EQ(testing::read_json(folder.path() / "phone.json")["bundle_sha256"], bundle.sha256());
  std::set<std::string> names;
  for (const auto& entry : testing::fs::directory_iterator(folder.path())) names.insert(entry.path().filename().string());
  EXPECT_EQ(names, (std::set<std::string>{"phone.json", "phone-first.png", "phone-second.png"}));
  write_png(folder.path() / "expected.png", result.pictures.at("second"));
  EXPECT_EQ(testing::read_text(folder.path() / "phone-second.png"), testing::read_text(folder.path() / "expected.png"));
  EXPECT_EQ(kind_thrown([&] { write_result("/nowhere/report.json", result); }), "bad_input");
  EXPECT_EQ(kind_thrown([&] { write_json("/nowhere/report.json", result.report.to_json()); }), "bad_input");
}

TEST(Periodic, RunsAtOnceAndALastTime) {
  int calls = 0;
  { const Periodic periodic(std::chrono::hours(1), [&] { ++calls; }); }
  EXPECT_EQ(calls, 2);
}

TEST(Cores, AreListsAndRanges) {
  EXPECT_EQ(parse_cores("4-7"), (std::vector<int>{4, 5, 6, 7}));
  EXPECT_EQ(parse_cores("0,2,4-5"), (std::vector<int>{0, 2, 4, 5}));
  for (const char* text : {"", "a", "1-", "-1", "3-2", "1,,2", "99999", "1 2"}) {
    EXPECT_EQ(kind_thrown([&] { parse_cores(text); }), "bad_input") << text;
  }
}

TEST(Threads, AreAsManyAsNamedCoresOrHalfTheProcessors) {
  EXPECT_EQ(default_threads(std::vector<int>{4, 5, 6, 7}), 4);
  EXPECT_EQ(default_threads(std::vector<int>{4, 4}), 1);
  EXPECT_EQ(default_threads(std::nullopt), std::max<long>(1, sysconf(_SC_NPROCESSORS_CONF) / 2));
}

TEST(Cores, ThatDoNotExistAreRefused) {
  EXPECT_EQ(kind_thrown([] { pin_to_cores({1023}); }), "bad_input");
}

}  // namespace
}  // namespace s2p
