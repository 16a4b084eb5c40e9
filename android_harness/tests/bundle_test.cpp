#include "s2p/bundle.h"

#include "fixtures.h"

namespace s2p {
namespace {

using testing::kFixtures;
using testing::kind_thrown;

void make_edit(const testing::fs::path& bundle, const std::string& action, const std::string& name) {
  const auto path = bundle / name;
  std::string content = testing::read_text(path);
  if (action == "remove") {
    testing::fs::remove(path);
  } else if (action == "truncate") {
    testing::write_text(path, content.substr(0, 3));
  } else {
    content.back() = static_cast<char>(content.back() ^ 1);
    testing::write_text(path, content);
  }
}

TEST(Bundle, RefusesEveryMalformedBundle) {
  const auto cases = testing::read_json(kFixtures / "malformed/index.json")["bundles"];
  ASSERT_GT(cases.size(), 60u);
  for (const auto& fixture : cases) {
    const testing::TemporaryFolder folder;
    const auto bundle = folder.path() / "replay.s2pmobile";
    testing::fs::copy(kFixtures / "replay.s2pmobile", bundle, testing::fs::copy_options::recursive);
    if (fixture.contains("manifest")) {
      testing::write_text(bundle / "manifest.json",
                          testing::read_text(kFixtures / "malformed" / fixture["manifest"].get<std::string>()));
    } else {
      make_edit(bundle, fixture["edit"][0], fixture["edit"][1]);
    }
    testing::expect_kind(fixture, [&] { Bundle::open(bundle); });
  }
}

TEST(Bundle, NamesTheNewerVersion) {
  const std::string text = testing::read_text(kFixtures / "malformed/manifests/version-two-other-fields.json");
  try {
    Manifest::parse(text, "m");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "m has format version 2, this program reads 1; update the program");
  }
}

TEST(Bundle, ReadsEveryFieldThatARunNeeds) {
  const Bundle bundle = Bundle::open(kFixtures / "ancestral.s2pmobile/");
  const Manifest& manifest = bundle.manifest();
  EXPECT_EQ(manifest.target, "executorch");
  EXPECT_EQ(manifest.batch(), 1);
  EXPECT_EQ(manifest.latents.count(), 4u * 4u * 6u);
  EXPECT_DOUBLE_EQ(manifest.latents.shift_factor, 0.125);
  EXPECT_EQ(manifest.latents.means, (std::vector<double>{-1.5, 1.75, -1.25, 2.5}));
  EXPECT_EQ(manifest.latents.deviations, (std::vector<double>{8.5, 6.0, 6.5, 5.25}));
  EXPECT_EQ(manifest.plan.calls.size(), 6u);
  ASSERT_EQ(manifest.sizes.size(), 2u);
  EXPECT_EQ(manifest.sizes[0].width, 48);
  EXPECT_FALSE(manifest.sizes[0].method || manifest.sizes[0].check || manifest.conditioning);
  EXPECT_EQ(manifest.sizes[1].method, "size_32x48");
  EXPECT_EQ(manifest.sizes[1].check, "golden/size-32x48.safetensors");
  EXPECT_DOUBLE_EQ(manifest.plan.calls[0].noise, 4.15739709641549);
  EXPECT_EQ(bundle.component("unet").inputs[1].dtype, DType::int64);
  EXPECT_EQ(manifest.golden[0].seed, 3u);
  EXPECT_EQ(kind_thrown([&] { bundle.component("time_table"); }), "bad_input");
}

TEST(Bundle, ReadsTheComputeUnitsOfPrograms) {
  const Bundle bundle = Bundle::open(kFixtures / "chunked.s2pmobile");
  EXPECT_EQ(bundle.component("unet_1").compute_unit, "neural-engine");
  EXPECT_EQ(bundle.component("unet_2").compute_unit, "gpu");
  EXPECT_EQ(bundle.component("unet_3").compute_unit, std::nullopt);
  EXPECT_EQ(bundle.component("vae_decoder").compute_unit, "all");
}

TEST(Bundle, ReadsTheFilesOfProgramsByChip) {
  const Bundle bundle = Bundle::open(kFixtures / "chunked.s2pmobile");
  const std::map<std::string, std::string> expected = {{"SM8650", "text_encoder.pte"}};
  EXPECT_EQ(bundle.component("text_encoder").chips, expected);
  EXPECT_TRUE(bundle.component("vae_decoder").chips.empty());
}

/// A copy of a fixture that is compiled for two chips, as an app finds it.
class CompiledBundle : public ::testing::Test {
 protected:
  CompiledBundle() {
    testing::fs::copy(kFixtures / "ancestral.s2pmobile", path_, testing::fs::copy_options::recursive);
    testing::compile_for(path_, {"SM8650", "SM8750"});
  }

  const testing::TemporaryFolder folder_;
  const testing::fs::path path_ = folder_.path() / "npu.s2pmobile";
};

TEST_F(CompiledBundle, PicksTheProgramsOfTheDevicesChip) {
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

TEST_F(CompiledBundle, RefusesAnotherChipByName) {
  const auto open = [&] { Bundle::open(path_, "SM8550"); };
  EXPECT_EQ(kind_thrown(open), "wrong_target");
  EXPECT_EQ(testing::message_thrown(open), "npu.s2pmobile is for the NPU of SM8650, SM8750, and this device has SM8550; convert the "
                                           "checkpoint for that chip, or with --backend xnnpack");
}

TEST_F(CompiledBundle, NeedsNoFilesOfOtherChips) {
  testing::fs::remove_all(path_ / "SM8650");
  testing::fs::remove_all(path_ / "SM8750/onnxruntime");
  EXPECT_EQ(kind_thrown([&] { Bundle::open(path_, "SM8750"); }), "none");
  EXPECT_EQ(kind_thrown([&] { Bundle::open(path_, "SM8650"); }), "missing_file");
  EXPECT_EQ(kind_thrown([&] { Bundle::open(path_); }), "missing_file");
}

TEST_F(CompiledBundle, ChecksItsOwnFiles) {
  for (const char* name : {"SM8750/unet.pte", "tokenizer/merges.txt", "golden/only.safetensors", "golden/size-32x48.safetensors"}) {
    const testing::TemporaryFolder folder;
    const auto copy = folder.path() / "b.s2pmobile";
    testing::fs::copy(path_, copy, testing::fs::copy_options::recursive);
    make_edit(copy, "flip", name);
    EXPECT_EQ(kind_thrown([&] { Bundle::open(copy, "SM8750"); }), "altered") << name;
  }
}

TEST_F(CompiledBundle, FilesInAChipsFolderThatOthersUseAreNeeded) {
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
  make_edit(path_, "flip", "SM8650/tokenizer/merges.txt");
  EXPECT_EQ(kind_thrown([&] { Bundle::open(path_, "SM8750"); }), "altered");
}

TEST_F(CompiledBundle, PathsOfOtherChipsMayNotLeaveTheFolderEither) {
  auto manifest = testing::read_json(path_ / "manifest.json");
  manifest["components"]["unet"]["chips"]["SM8650"] = "../unet.pte";
  manifest["components"]["unet"]["path"] = "SM8750/unet.pte";
  manifest["files"]["../unet.pte"] = manifest["files"]["SM8650/unet.pte"];
  testing::write_text(path_ / "manifest.json", manifest.dump());
  EXPECT_EQ(kind_thrown([&] { Bundle::open(path_, "SM8750"); }), "outside");
}

TEST(Bundle, ReadsSeedsAboveTheRangeOfADouble) {
  const Bundle bundle = Bundle::open(kFixtures / "replay.s2pmobile");
  const auto document = testing::read_json(kFixtures / "replay.s2pmobile/manifest.json");
  EXPECT_EQ(bundle.manifest().golden[1].seed, document["golden"][1]["seed"].get<std::uint64_t>());
  EXPECT_GT(bundle.manifest().golden[1].seed, std::uint64_t{1} << 32);
}

TEST(Bundle, RefusesALinkOutOfItsFolder) {
  const testing::TemporaryFolder folder;
  const auto bundle = folder.path() / "b.s2pmobile";
  testing::fs::create_directory(bundle);
  testing::write_text(folder.path() / "secret", "x");
  testing::fs::create_symlink("../secret", bundle / "link");
  testing::write_text(bundle / "file", "x");
  testing::fs::create_symlink("file", bundle / "inner");
  EXPECT_EQ(kind_thrown([&] { inside(bundle, "link"); }), "outside");
  EXPECT_EQ(kind_thrown([&] { inside(bundle, "inner"); }), "none");
}

TEST(Bundle, SaysWhereThereIsNone) {
  EXPECT_EQ(kind_thrown([] { Bundle::open("/nowhere/x.s2pmobile"); }), "not_found");
  EXPECT_EQ(kind_thrown([] { Bundle::open(kFixtures / "README.md"); }), "not_found");
}

}  // namespace
}  // namespace s2p
