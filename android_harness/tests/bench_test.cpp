#include "s2p/bench.h"

#include <chrono>
#include <cmath>
#include <functional>
#include <thread>

#include "fixtures.h"
#include "s2p/affinity.h"
#include "s2p/periodic.h"
#include "s2p/replay_backend.h"

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

class Bench : public ::testing::Test {
 protected:
  Report run(Backend& backend, const Protocol& protocol, const std::string& tree = "sysfs-jetson-orin") {
    Probes probes(SystemFiles(testing::kTrees / tree), std::make_unique<PlatformSensors>(), [] { return 0.0; });
    return run_bench(bundle_, backend, probes, {protocol, kDefaultFidelityFloorDb},
                     [this](const BenchEvent& event) { events_.push_back(event); });
  }

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

TEST_F(Bench, WritesAWholeReportOrNone) {
  ReplayBackend backend(bundle_);
  Report report = run(backend, {0, 1, 0, 0, 1});
  report.device.soc = "broken \xff name";
  const testing::TemporaryFolder folder;
  write_report(folder.path() / "report.json", report);
  EXPECT_EQ(testing::read_json(folder.path() / "report.json")["bundle_sha256"], bundle_.sha256());
  EXPECT_EQ(std::distance(testing::fs::directory_iterator(folder.path()), {}), 1);
  EXPECT_EQ(kind_thrown([&] { write_report("/nowhere/report.json", report); }), "bad_input");
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

TEST(Cores, ThatDoNotExistAreRefused) {
  EXPECT_EQ(kind_thrown([] { pin_to_cores({1023}); }), "bad_input");
}

}  // namespace
}  // namespace s2p
