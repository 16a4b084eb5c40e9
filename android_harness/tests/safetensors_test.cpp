#include "s2p/safetensors.h"

#include "fixtures.h"

namespace s2p {
namespace {

using testing::kind_thrown;

TEST(TensorFile, RefusesEveryMalformedFile) {
  const auto cases = testing::read_json(testing::kFixtures / "malformed/index.json")["tensors"];
  ASSERT_GT(cases.size(), 20u);
  for (const auto& fixture : cases) {
    const auto path = testing::kFixtures / "malformed" / fixture["file"].get<std::string>();
    testing::expect_kind(fixture, [&] { TensorFile file(path); });
  }
}

TEST(TensorFile, ReadsNamesShapesAndValues) {
  const TensorFile file(testing::kFixtures / "replay.s2pmobile/golden/first.safetensors");
  EXPECT_EQ(file.shape("initial_latents"), (std::vector<std::int64_t>{1, 4, 8, 8}));
  EXPECT_EQ(file.integers("noise_pred_calls"), (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_TRUE(file.contains("fp_image"));
  EXPECT_FALSE(file.contains("fp"));
}

TEST(TensorFile, RefusesAnotherNameOrType) {
  const TensorFile file(testing::kFixtures / "replay.s2pmobile/golden/first.safetensors");
  EXPECT_EQ(kind_thrown([&] { file.floats("noise_pred_calls"); }), "bad_tensors");
  EXPECT_EQ(kind_thrown([&] { file.floats("nothing"); }), "bad_tensors");
  EXPECT_EQ(kind_thrown([] { TensorFile none("/nowhere/x.safetensors"); }), "not_found");
  EXPECT_EQ(kind_thrown([] { TensorFile folder(testing::kFixtures); }), "not_found");
}

TEST(TensorFile, ReadsDataThatIsNotAligned) {
  const testing::TemporaryFolder folder;
  std::string header = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  while ((header.size() + 8) % 4 == 0) header += ' ';
  const std::string length(1, static_cast<char>(header.size()));
  testing::write_text(folder.path() / "x", length + std::string(7, '\0') + header + std::string("\0\0\x80\x3f", 4));
  EXPECT_EQ(TensorFile(folder.path() / "x").floats("a"), std::vector<float>{1.0f});
}

}  // namespace
}  // namespace s2p
