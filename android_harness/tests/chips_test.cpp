// Bundles whose programs are compiled for chips.
#include "fixtures.h"
#include "s2p/bundle.h"
#include "s2p/pipeline.h"
#include "s2p/replay_backend.h"
#include "s2p/safetensors.h"

namespace s2p {
namespace {

using testing::kFixtures;
using testing::kind_thrown;

/// A copy of a fixture that is compiled for two chips, as an app finds it.
class Chips : public ::testing::Test {
 protected:
  Chips() {
    testing::fs::copy(kFixtures / "ancestral.s2pmobile", path_, testing::fs::copy_options::recursive);
    testing::compile_for(path_, {"SM8650", "SM8750"});
  }

  const testing::TemporaryFolder folder_;
  const testing::fs::path path_ = folder_.path() / "npu.s2pmobile";
};

TEST_F(Chips, GiveTheComponentsTheirPaths) {
  EXPECT_EQ(Bundle::open(path_).chip(), std::nullopt);
  EXPECT_EQ(Bundle::open(path_).component("unet").path, "SM8650/unet.pte");
  for (const std::string chip : {"SM8650", "SM8750"}) {
    const Bundle bundle = Bundle::open(path_, chip);
    EXPECT_EQ(bundle.chip(), chip);
    for (const auto& [name, component] : bundle.manifest().components) EXPECT_EQ(component.path, chip + "/" + name + ".pte");
  }
  const Bundle any = Bundle::open(kFixtures / "ancestral.s2pmobile", "SM8550");
  EXPECT_EQ(any.chip(), std::nullopt);
  EXPECT_EQ(any.component("unet").path, "unet.pte");
}

TEST_F(Chips, AreRefusedByNameOnADeviceWithAnother) {
  const auto open = [&] { Bundle::open(path_, "SM8550"); };
  EXPECT_EQ(kind_thrown(open), "wrong_target");
  EXPECT_EQ(testing::message_thrown(open), "npu.s2pmobile is for the NPU of SM8650, SM8750, and this device has SM8550; convert the "
                                           "checkpoint for that chip, or with --backend xnnpack");
}

TEST_F(Chips, NeedNoFilesOfOthers) {
  testing::fs::remove_all(path_ / "SM8650");
  testing::fs::remove_all(path_ / "SM8750/onnxruntime");
  EXPECT_EQ(kind_thrown([&] { Bundle::open(path_, "SM8750"); }), "none");
  EXPECT_EQ(kind_thrown([&] { Bundle::open(path_, "SM8650"); }), "missing_file");
  EXPECT_EQ(kind_thrown([&] { Bundle::open(path_); }), "missing_file");
}

TEST_F(Chips, HaveTheirFilesChecked) {
  for (const char* name : {"SM8750/unet.pte", "tokenizer/merges.txt", "golden/only.safetensors", "golden/size-32x48.safetensors"}) {
    const testing::TemporaryFolder folder;
    const auto copy = folder.path() / "b.s2pmobile";
    testing::fs::copy(path_, copy, testing::fs::copy_options::recursive);
    testing::make_edit(copy, "flip", name);
    EXPECT_EQ(kind_thrown([&] { Bundle::open(copy, "SM8750"); }), "altered") << name;
  }
}

TEST_F(Chips, HaveFoldersWhoseFilesOthersMayNeed) {
  auto manifest = testing::read_json(path_ / "manifest.json");
  testing::fs::rename(path_ / "tokenizer", path_ / "SM8650/tokenizer");
  for (const char* name : {"vocab.json", "merges.txt"}) {
    const std::string old = std::string("tokenizer/") + name;
    manifest["files"]["SM8650/" + old] = manifest["files"][old];
    manifest["files"].erase(old);
  }
  manifest["tokenizer"]["vocab"] = "SM8650/tokenizer/vocab.json";
  manifest["tokenizer"]["merges"] = "SM8650/tokenizer/merges.txt";
  testing::write_text(path_ / "manifest.json", manifest.dump());
  EXPECT_EQ(kind_thrown([&] { Bundle::open(path_, "SM8750"); }), "none");
  testing::make_edit(path_, "flip", "SM8650/tokenizer/merges.txt");
  EXPECT_EQ(kind_thrown([&] { Bundle::open(path_, "SM8750"); }), "altered");
}

TEST_F(Chips, OfOtherDevicesMayNotLeaveTheFolderEither) {
  auto manifest = testing::read_json(path_ / "manifest.json");
  manifest["components"]["unet"]["chips"]["SM8650"] = "../unet.pte";
  manifest["components"]["unet"]["path"] = "SM8750/unet.pte";
  manifest["files"]["../unet.pte"] = manifest["files"]["SM8650/unet.pte"];
  testing::write_text(path_ / "manifest.json", manifest.dump());
  EXPECT_EQ(kind_thrown([&] { Bundle::open(path_, "SM8750"); }), "outside");
}

/// An engine for ExecuTorch's programs, with or without an NPU; plays a golden run back and keeps the files that it is given.
struct NpuBackend : ReplayBackend {
  NpuBackend(const Bundle& bundle, bool has_npu) : ReplayBackend(bundle), has(has_npu) {}
  std::string_view target() const override { return "executorch"; }
  bool prepare_npu() override {
    EXPECT_TRUE(files.empty()) << "it comes before anything is loaded";
    ++prepared;
    return has;
  }
  std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
    files.push_back(file.parent_path().filename() / file.filename());
    return ReplayBackend::load(name, component, file);
  }
  bool has;
  int prepared = 0;
  std::vector<testing::fs::path> files;
};

TEST_F(Chips, LoadTheProgramsOfTheDevicesOwn) {
  const Bundle bundle = Bundle::open(path_, "SM8750");
  NpuBackend engine(bundle, true);
  const GoldenRun& golden = bundle.manifest().golden[0];
  const Drawing drawing = Pipeline(bundle, engine).draw({golden.prompt, golden.seed, std::nullopt});
  EXPECT_EQ(drawing.latents, TensorFile(bundle.path(golden.path)).floats("quantized_latents"));
  EXPECT_EQ(engine.prepared, 1);
  EXPECT_EQ(engine.files, (std::vector<testing::fs::path>{"SM8750/text_encoder.pte", "SM8750/unet.pte", "SM8750/vae_decoder.pte"}));
}

TEST_F(Chips, AreRefusedByAnEngineWithoutAnNpu) {
  const Bundle bundle = Bundle::open(path_, "SM8650");
  NpuBackend engine(bundle, false);
  const auto open = [&] { Pipeline(bundle, engine); };
  EXPECT_EQ(kind_thrown(open), "wrong_target");
  EXPECT_EQ(testing::message_thrown(open),
            "npu.s2pmobile is for the NPU of SM8650, SM8750, whose engine this program does not bring; measure it with the app, or "
            "convert with --backend xnnpack");
  EXPECT_TRUE(engine.files.empty());
  // A replay runs no programs.
  ReplayBackend replay(bundle);
  EXPECT_EQ(kind_thrown([&] { Pipeline(bundle, replay); }), "none");
}

TEST_F(Chips, AreRefusedWhereTheDeviceDoesNotTellItsOwn) {
  const Bundle bundle = Bundle::open(path_);
  NpuBackend engine(bundle, true);
  const auto open = [&] { Pipeline(bundle, engine); };
  EXPECT_EQ(kind_thrown(open), "wrong_target");
  EXPECT_NE(testing::message_thrown(open).find("SM8650, SM8750, and this device does not name its chip, which takes Android 12;"),
            std::string::npos);
}

TEST_F(Chips, AreNothingToBundlesThatRunOnAny) {
  const Bundle bundle = Bundle::open(kFixtures / "ancestral.s2pmobile", "SM8650");
  NpuBackend engine(bundle, false);
  EXPECT_EQ(kind_thrown([&] { Pipeline(bundle, engine); }), "none");
  EXPECT_EQ(engine.prepared, 0);
}

TEST_F(Chips, CountForABudgetWithTheirOwnPrograms) {
  // The other chip's programs are larger than the budget.
  testing::write_text(path_ / "SM8650/unet.pte", std::string(10'000, 'x'));
  auto manifest = testing::read_json(path_ / "manifest.json");
  manifest["files"]["SM8650/unet.pte"] = {{"sha256", sha256_file(path_ / "SM8650/unet.pte")}, {"bytes", 10'000}};
  testing::write_text(path_ / "manifest.json", manifest.dump());
  EXPECT_EQ(within_budget(Bundle::open(path_, "SM8750"), 1000).residency, Residency::keep);
  EXPECT_EQ(within_budget(Bundle::open(path_, "SM8650"), 1000).residency, Residency::release);
}

}  // namespace
}  // namespace s2p
