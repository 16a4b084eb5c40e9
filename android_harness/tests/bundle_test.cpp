#include "s2p/bundle.h"

#include "fixtures.h"

namespace s2p {
namespace {

using testing::kFixtures;
using testing::kind_thrown;

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
      testing::make_edit(bundle, fixture["edit"][0], fixture["edit"][1]);
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

// Names come from files; a message with one of them is a line all the same.
TEST(Bundle, MessagesAreOneLine) {
  EXPECT_STREQ(Error(ErrorKind::invalid, "tensor 'a\nb\r\tc\x7f\xc3\xa4'").what(), "tensor 'a b  c \xc3\xa4'");
}

}  // namespace
}  // namespace s2p
