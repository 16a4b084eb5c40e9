#include <algorithm>
#include <map>

#include "fixtures.h"
#include "s2p/pipeline.h"
#include "s2p/replay_backend.h"
#include "s2p/safetensors.h"

namespace s2p {
namespace {

using testing::kFixtures;
using testing::kind_thrown;

/// A copy of a fixture that has a second size besides its own 48x32, with a listed file for its check.
class TwoSizes {
 public:
  explicit TwoSizes(const std::string& fixture) : path_(folder_.path() / fixture) {
    testing::fs::copy(kFixtures / fixture, path_, testing::fs::copy_options::recursive);
    auto manifest = testing::read_json(path_ / "manifest.json");
    manifest["sizes"].push_back({{"width", 32}, {"height", 48}, {"latent_width", 4}, {"latent_height", 6}, {"method", "size_32x48"},
                                 {"check", manifest["golden"][0]["path"]}});
    testing::write_text(path_ / "manifest.json", manifest.dump());
  }
  const testing::fs::path& path() const { return path_; }

 private:
  testing::TemporaryFolder folder_;
  testing::fs::path path_;
};

/// Programs that note what they are given: the U-Net answers with its sample, the decoder with the picture that a check recorded, others
/// with zeros.
class NotingBackend : public Backend {
 public:
  std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path&) override {
    loaded.push_back(name + ":" + component.method.value_or(""));
    return std::make_unique<Noting>(name, component, *this);
  }
  std::string_view target() const override { return {}; }
  std::string describe(const Component&) const override { return "notes"; }

  std::vector<float> image;
  std::vector<std::string> loaded;
  std::map<std::string, std::vector<std::int64_t>> shapes;  ///< of the first input
  std::vector<float> time_ids;
  int alive = 0;
  int most_alive = 0;

 private:
  struct Noting : Program {
    Noting(std::string given_name, Component given, NotingBackend& backend)
        : name(std::move(given_name)), component(std::move(given)), owner(backend) {
      owner.most_alive = std::max(owner.most_alive, ++owner.alive);
    }
    ~Noting() override { --owner.alive; }
    std::vector<float> run(const std::vector<TensorView>& inputs) override { return run_all(inputs).front(); }
    std::vector<std::vector<float>> run_all(const std::vector<TensorView>& inputs) override {
      owner.shapes[name] = inputs.front().shape;
      const auto floats = [](const TensorView& view) {
        const auto* data = static_cast<const float*>(view.data);
        return std::vector<float>(data, data + element_count(view.shape));
      };
      if (name == "time_table") owner.time_ids = floats(inputs.at(1));
      if (name == "unet") return {floats(inputs.front())};
      if (name == "vae_decoder" && !owner.image.empty()) return {owner.image};
      std::vector<std::vector<float>> zeros;
      for (const TensorSpec& output : component.outputs) zeros.emplace_back(element_count(output.shape), 0.0f);
      return zeros;
    }
    std::string name;
    Component component;
    NotingBackend& owner;
  };
};

TEST(Sizes, AreDrawnByMethodsOfTheirOwnOneAtATime) {
  const Bundle bundle = Bundle::open(kFixtures / "ancestral.s2pmobile");
  // What the converter's reference takes and gives at this size.
  const TensorFile check(bundle.path(*bundle.manifest().sizes[1].check));
  NotingBackend backend;
  backend.image = check.floats("image");
  Pipeline pipeline(bundle, backend);
  EXPECT_EQ(pipeline.size().title(), "48x32");
  pipeline.load();
  EXPECT_EQ(backend.loaded, (std::vector<std::string>{"text_encoder:", "unet:", "vae_decoder:"}));
  pipeline.set_size(32, 48);
  const Drawing drawing = pipeline.draw({"a cat", 7, std::nullopt});
  EXPECT_EQ(backend.shapes["unet"], check.shape("sample"));
  EXPECT_EQ(backend.shapes["vae_decoder"], check.shape("latents"));
  EXPECT_EQ(drawing.picture.width, 32u);
  EXPECT_EQ(drawing.picture.height, 48u);
  EXPECT_EQ(drawing.picture.rgb, to_picture(backend.image, 48, 32).rgb);
  const SamplingPlan& plan = bundle.manifest().plan;
  const std::size_t count = element_count(check.shape("latents"));
  const auto same = [](const std::vector<float>& sample, std::size_t) { return sample; };
  EXPECT_EQ(drawing.latents, denoise(plan, same, initial_latents(plan, 7, count), 7));
  // The text encoder stays; nothing of the first size is loaded beside the second's.
  EXPECT_EQ(backend.loaded, (std::vector<std::string>{"text_encoder:", "unet:", "vae_decoder:", "unet:size_32x48", "vae_decoder:size_32x48"}));
  EXPECT_EQ(backend.most_alive, 3);
  pipeline.draw({"a cat", 7, std::nullopt});
  EXPECT_EQ(backend.loaded.size(), 5u);
  pipeline.set_size(48, 32);
  pipeline.draw({"a cat", 7, std::nullopt});
  EXPECT_EQ(backend.shapes["unet"], bundle.component("unet").inputs[0].shape);
  EXPECT_EQ(backend.loaded.size(), 7u);
  EXPECT_EQ(backend.loaded.back(), "vae_decoder:");
}

TEST(Sizes, AreToldToTheTimeTable) {
  const TwoSizes copy("pooled.s2pmobile");
  const Bundle bundle = Bundle::open(copy.path());
  NotingBackend backend;
  Pipeline pipeline(bundle, backend);
  // Height before width, as diffusers has it; once for each branch.
  const auto twice = [](std::vector<float> ids) {
    ids.insert(ids.end(), ids.begin(), ids.begin() + 6);
    return ids;
  };
  pipeline.draw({"a cat", 7, std::nullopt});
  EXPECT_EQ(backend.time_ids, twice({32, 48, 0, 0, 32, 48}));
  pipeline.set_size(32, 48);
  pipeline.draw({"a cat", 7, std::nullopt});
  EXPECT_EQ(backend.time_ids, twice({48, 32, 0, 0, 48, 32}));
  EXPECT_EQ(backend.shapes["unet"], (std::vector<std::int64_t>{2, 4, 6, 4}));
  EXPECT_EQ(std::count(backend.loaded.begin(), backend.loaded.end(), "time_table:"), 1);
}

TEST(Sizes, HoldPicturesToStartFromToThem) {
  const TwoSizes copy("picture.s2pmobile");
  const Bundle bundle = Bundle::open(copy.path());
  NotingBackend backend;
  Pipeline pipeline(bundle, backend);
  const Picture high{32, 48, std::vector<unsigned char>(3 * 32 * 48)};
  const Picture wide{48, 32, std::vector<unsigned char>(3 * 48 * 32)};
  const auto refusal = [&](const Picture& picture) {
    return testing::message_thrown([&] { pipeline.draw({"a cat", 7, std::nullopt, FromPicture{picture}}); });
  };
  const std::string end = "; scale and cut the picture to that size";
  EXPECT_EQ(refusal(high), "picture.s2pmobile starts from pictures of 48x32, not 32x48" + end);
  pipeline.set_size(32, 48);
  EXPECT_EQ(refusal(wide), "picture.s2pmobile starts from pictures of 32x48, not 48x32" + end);
  EXPECT_EQ(refusal(high), "");
  EXPECT_EQ(backend.shapes["vae_encoder"], (std::vector<std::int64_t>{1, 3, 48, 32}));
  EXPECT_EQ(std::count(backend.loaded.begin(), backend.loaded.end(), "vae_encoder:size_32x48"), 1);
}

TEST(Sizes, ThatABundleLacksAreRefusedByWhatItHas) {
  const Bundle bundle = Bundle::open(kFixtures / "ancestral.s2pmobile");
  ReplayBackend backend(bundle);
  Pipeline pipeline(bundle, backend);
  EXPECT_EQ(kind_thrown([&] { pipeline.set_size(64, 64); }), "bad_input");
  EXPECT_EQ(testing::message_thrown([&] { pipeline.set_size(64, 64); }),
            "the bundle draws 48x32, 32x48, not 64x64; choose one of these, or convert again with --size 64x64");
  EXPECT_EQ(pipeline.size().title(), "48x32");
  // Its recording has as many values at both sizes.
  pipeline.set_size(32, 48);
  const GoldenRun& golden = bundle.manifest().golden[0];
  EXPECT_EQ(testing::message_thrown([&] { pipeline.draw({golden.prompt, golden.seed, std::nullopt}); }),
            "the golden run is a picture of another size; replay draws only its own");
}

TEST(Sizes, ThatNoMemoryHoldsAreRefused) {
  const TwoSizes copy("pooled.s2pmobile");
  const std::map<std::string, std::int64_t> edits[] = {{{"width", std::int64_t{1} << 40}},
                                                       {{"width", 1 << 16}, {"height", 1 << 16}},
                                                       {{"latent_width", 1 << 16}, {"latent_height", 1 << 16}}};
  for (const auto& edit : edits) {
    auto manifest = testing::read_json(copy.path() / "manifest.json");
    for (const auto& [name, value] : edit) manifest["sizes"][1][name] = value;
    EXPECT_EQ(kind_thrown([&] { Manifest::parse(manifest.dump(), "m"); }), "invalid") << manifest["sizes"][1];
  }
}

}  // namespace
}  // namespace s2p
