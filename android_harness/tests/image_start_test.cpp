#include "s2p/image_start.h"

#include <algorithm>
#include <cmath>

#include "fixtures.h"
#include "s2p/bench.h"
#include "s2p/replay_backend.h"
#include "s2p/safetensors.h"

namespace s2p {
namespace {

using testing::kFixtures;
using testing::kind_thrown;
using testing::message_thrown;

double relative_error(const std::vector<float>& value, const std::vector<float>& reference) {
  EXPECT_EQ(value.size(), reference.size());
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    difference += std::pow(double{value.at(i)} - double{reference[i]}, 2);
    norm += std::pow(double{reference[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

/// Replays, keeps the names of what is loaded and what is alive, and may spoil what the encoder gives.
class EncoderBackend : public ReplayBackend {
 public:
  using ReplayBackend::ReplayBackend;
  std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
    loaded.push_back(name);
    return std::make_unique<Watched>(ReplayBackend::load(name, component, file), *this, name == "vae_encoder");
  }

  std::vector<std::string> loaded;
  bool spoilt = false;
  int alive = 0;
  int most_alive = 0;

 private:
  struct Watched : Program {
    Watched(std::unique_ptr<Program> program, EncoderBackend& backend, bool encodes)
        : inner(std::move(program)), owner(backend), is_encoder(encodes) {
      owner.most_alive = std::max(owner.most_alive, ++owner.alive);
    }
    ~Watched() override { --owner.alive; }
    std::vector<float> run(const std::vector<TensorView>& inputs) override {
      auto output = inner->run(inputs);
      if (is_encoder && owner.spoilt) output.front() = NAN;
      return output;
    }
    std::unique_ptr<Program> inner;
    EncoderBackend& owner;
    bool is_encoder;
  };
};

class FromAPicture : public ::testing::Test {
 protected:
  Picture recorded_picture() const {
    const auto& shape = golden_.shape("image");
    return to_picture(golden_.floats("image"), static_cast<std::size_t>(shape[2]), static_cast<std::size_t>(shape[3]));
  }
  Wish wish(double strength) const {
    return {manifest_.golden[0].prompt, manifest_.golden[0].seed, std::nullopt, FromPicture{recorded_picture(), strength}};
  }
  std::vector<float> guided(std::size_t call) const {
    const std::size_t size = manifest_.latents.count() * static_cast<std::size_t>(manifest_.batch());
    const auto all = golden_.floats("noise_pred");
    const float* begin = all.data() + call * size;
    return guide({begin, begin + size}, manifest_.latents.count(), manifest_.guidance);
  }
  /// The recorded outputs walked from the recorded picture.
  std::vector<float> walked(const ImageStart& start) const {
    const auto encoded = manifest_.latents.encoded(golden_.floats("moments"));
    const std::uint64_t seed = manifest_.golden[0].seed;
    const auto predict = [this](const std::vector<float>&, std::size_t call) { return guided(call); };
    return denoise(begun_at(manifest_.plan, start), predict, picture_latents(start, encoded, seed), seed, {}, start.call);
  }

  const Bundle bundle_ = Bundle::open(kFixtures / "picture.s2pmobile");
  const Manifest& manifest_ = bundle_.manifest();
  const TensorFile golden_{bundle_.path(manifest_.golden[0].path)};
};

TEST_F(FromAPicture, ReadsWhereRunsBegin) {
  ASSERT_EQ(manifest_.image_starts.size(), 5u);
  const ImageStart& start = manifest_.image_starts[2];
  EXPECT_EQ(start.call, 2u);
  EXPECT_DOUBLE_EQ(start.latents, 0.6049793384901669);
  EXPECT_DOUBLE_EQ(start.noise, 0.7962411694957753);
  ASSERT_EQ(start.rows.size(), 2u);
  EXPECT_EQ(start.rows[1].outputs.at(1).index, 2u);
  EXPECT_TRUE(Bundle::open(kFixtures / "replay.s2pmobile").manifest().image_starts.empty());
}

TEST_F(FromAPicture, WalksToTheRecordedEnd) {
  const auto step = static_cast<std::size_t>(golden_.integers("from_picture_step").at(0));
  const auto expected = golden_.floats("from_picture_latents");
  EXPECT_LE(relative_error(walked(manifest_.image_starts.at(step)), expected), 1e-6);
  ImageStart other = manifest_.image_starts.at(step);
  other.noise = 0;
  EXPECT_GT(relative_error(walked(other), expected), 1e-2);
}

TEST_F(FromAPicture, DrawsThreeOfFiveSteps) {
  EncoderBackend backend(bundle_);
  Pipeline pipeline(bundle_, backend);
  std::vector<std::size_t> calls;
  std::vector<std::size_t> previews;
  Watcher watcher;
  watcher.on_call = [&](std::size_t call) { calls.push_back(call); };
  watcher.preview_every = 3;
  watcher.on_preview = [&](std::size_t call, const Picture&) { previews.push_back(call); };
  const Wish wished = wish(0.6);
  const Drawing drawing = pipeline.draw(wished, watcher);
  EXPECT_LE(relative_error(drawing.latents, golden_.floats("from_picture_latents")), 1e-6);
  EXPECT_EQ(calls, (std::vector<std::size_t>{2, 3, 4, 5}));
  EXPECT_EQ(pipeline.first_call(wished), 2u);
  EXPECT_EQ(previews, (std::vector<std::size_t>{4}));  // the third that is made
  EXPECT_EQ(drawing.timings.unet_call.size(), 4u);
}

TEST_F(FromAPicture, MakesAllStepsWithAStrengthOfOne) {
  EncoderBackend backend(bundle_);
  Pipeline pipeline(bundle_, backend);
  const Drawing drawing = pipeline.draw(wish(1));
  EXPECT_EQ(drawing.timings.unet_call.size(), manifest_.plan.calls.size());
  EXPECT_EQ(drawing.latents, walked(manifest_.image_starts.front()));
  // The picture shines through, other than in a run from noise.
  EXPECT_NE(drawing.latents, golden_.floats("quantized_latents"));
}

// x_1 from a picture of 10 and no noise; the plan's row looks at x_0, which is not there, and the start's own at x_1 alone.
TEST(ImageStart, PutsItsRowsInPlaceOfThePlans) {
  SamplingPlan plan{"x", 2, "sample", 1.0, {}};
  plan.calls.push_back({0, 1.0, {{0, 1.0}}, {{0, 1.0}}, 0});
  plan.calls.push_back({0, 1.0, {{1, 1.0}, {0, 1.0}}, {{1, 1.0}}, 0});
  plan.calls.push_back({0, 1.0, {{2, 2.0}}, {{1, 0.5}}, 0});
  const ImageStart start{1, 2.0, 0.0, {{0, 1.0, {{1, 3.0}}, {{1, 0.25}}, 0}}};
  std::vector<std::size_t> calls;
  const auto predict = [&calls](const std::vector<float>&, std::size_t call) {
    calls.push_back(call);
    return std::vector<float>{call == 1 ? 8.0F : 100.0F};
  };
  const auto first = picture_latents(start, {5.0F}, 7);
  EXPECT_EQ(first, std::vector<float>{10.0F});
  EXPECT_EQ(denoise(begun_at(plan, start), predict, first, 7, {}, start.call), std::vector<float>{2 * (3 * 10.0F + 2) + 4});
  EXPECT_EQ(calls, (std::vector<std::size_t>{1, 2}));
}

TEST(ImageStart, CountsStepsAsDiffusersDoes) {
  EXPECT_EQ(skipped_steps(5, 0.6), 2u);
  EXPECT_EQ(skipped_steps(5, 1), 0u);
  EXPECT_EQ(skipped_steps(5, 0.2), 4u);
  EXPECT_EQ(skipped_steps(50, 0.75), 13u);
  EXPECT_EQ(skipped_steps(100, 0.29), 72u);  // 100 * 0.29 is a little less than 29 in double
  for (const double strength : {0.0, -0.5, 1.0001, double{NAN}}) {
    const std::string message = message_thrown([&] { skipped_steps(5, strength); });
    EXPECT_NE(message.find(" is out of range; give a number above 0, at most 1"), std::string::npos) << message;
  }
  EXPECT_EQ(message_thrown([] { skipped_steps(5, 0.19); }), "strength 0.19 leaves none of 5 steps; give 0.2 or more");
  EXPECT_EQ(message_thrown([] { skipped_steps(3, 0.3); }), "strength 0.3 leaves none of 3 steps; give 0.334 or more");
}

TEST(ImageStart, EveryMalformedOneIsRefusedForItsOwnReason) {
  const std::pair<const char*, const char*> cases[] = {
      {"starts-behind-the-end", "image_starts.0.call: above 5"},
      {"starts-call-half", "image_starts.0.call: not a whole number"},
      {"starts-component-alone", "image_starts: goes with a component vae_encoder"},
      {"starts-fewer", "image_starts: not one to each step"},
      {"starts-latents-missing", "image_starts.0.latents: missing"},
      {"starts-look-back", "image_starts.4.rows: the plan's row of call 4 looks behind the start"},
      {"starts-negative", "image_starts.0.call: below 0"},
      {"starts-no-list", "image_starts: not a list"},
      {"starts-noise-text", "image_starts.0.noise: not a number"},
      {"starts-none", "image_starts: not one to each step"},
      {"starts-null", "image_starts: not a list"},
      {"starts-row-looks-ahead", "image_starts.0.rows.0.states: above 4"},
      {"starts-row-looks-back", "image_starts.0.rows.0: looks behind the start"},
      {"starts-row-other-scale", "image_starts.0.rows.1: another timestep or input_scale"},
      {"starts-row-other-timestep", "image_starts.0.rows.0: another timestep or input_scale"},
      {"starts-rows-behind-the-end", "image_starts.0.rows: more than calls are left"},
      {"starts-unknown-field", "image_starts.0.novelty: unknown field"},
      {"starts-without-component", "image_starts: goes with a component vae_encoder"}};
  for (const auto& [name, reason] : cases) {
    const std::string text = testing::read_text(kFixtures / "malformed/manifests" / (std::string(name) + ".json"));
    const std::string message = message_thrown([&text] { Manifest::parse(text, "m"); });
    EXPECT_NE(message.find(reason), std::string::npos) << message;
  }
}

TEST_F(FromAPicture, LoadsTheEncoderForPicturesAlone) {
  EncoderBackend keeping(bundle_);
  Pipeline keep(bundle_, keeping);
  keep.load();
  keep.prewarm();
  keep.draw({manifest_.golden[0].prompt, manifest_.golden[0].seed, std::nullopt});
  EXPECT_EQ(keeping.loaded, (std::vector<std::string>{"text_encoder", "unet", "vae_decoder"}));
  keep.draw(wish(0.6));
  keep.draw(wish(0.6));
  EXPECT_EQ(keeping.loaded, (std::vector<std::string>{"text_encoder", "unet", "vae_decoder", "vae_encoder"}));
  EncoderBackend releasing(bundle_);
  Pipeline(bundle_, releasing, Residency::release).draw(wish(0.6));
  EXPECT_EQ(releasing.loaded, (std::vector<std::string>{"text_encoder", "vae_encoder", "unet", "vae_decoder"}));
  EXPECT_EQ(releasing.most_alive, 1);
}

TEST_F(FromAPicture, IsNoPartOfTheBenchmark) {
  EncoderBackend backend(bundle_);
  Probes probes(SystemFiles(testing::kTrees / "sysfs-jetson-orin"), std::make_unique<PlatformSensors>(), [] { return 0.0; });
  BenchOptions options;
  options.protocol = {1, 1, 0, 0, std::nullopt};
  const Report report = run_bench(bundle_, backend, probes, options, [](const BenchEvent&) {}).report;
  EXPECT_TRUE(report.validity.fidelity_ok);
  EXPECT_EQ(report.backend.size(), 3u);
  EXPECT_EQ(report.timings.load.count("vae_encoder"), 0u);
  EXPECT_EQ(std::count(backend.loaded.begin(), backend.loaded.end(), "vae_encoder"), 0);
}

TEST_F(FromAPicture, CountsTheEncoderToABudget) {
  std::uint64_t all = 0;
  for (const auto& [name, component] : manifest_.components) all += manifest_.files.at(component.path).bytes;
  EXPECT_EQ(within_budget(bundle_, all).residency, Residency::keep);
  EXPECT_EQ(within_budget(bundle_, all - 1).residency, Residency::release);
}

TEST_F(FromAPicture, IsRefusedBeforeAnythingIsLoaded) {
  EncoderBackend backend(bundle_);
  Pipeline pipeline(bundle_, backend);
  const auto refusal = [&](const Wish& wished) { return message_thrown([&] { pipeline.draw(wished); }); };
  EXPECT_EQ(refusal(wish(0.1)), "strength 0.1 leaves none of 5 steps; give 0.2 or more");
  EXPECT_EQ(refusal(wish(1.5)), "strength 1.5 is out of range; give a number above 0, at most 1");
  Wish small = wish(0.6);
  small.image->picture = {24, 16, std::vector<unsigned char>(3 * 24 * 16)};
  EXPECT_EQ(refusal(small), "picture.s2pmobile starts from pictures of 48x32, not 24x16; scale and cut the picture to that size");
  Wish short_of_bytes = wish(0.6);
  short_of_bytes.image->picture.rgb.pop_back();
  EXPECT_NE(refusal(short_of_bytes), "");
  EXPECT_TRUE(backend.loaded.empty());

  const Bundle plain = Bundle::open(kFixtures / "replay.s2pmobile");
  EncoderBackend other(plain);
  Pipeline without(plain, other);
  EXPECT_EQ(message_thrown([&] { without.draw(wish(0.6)); }),
            "replay.s2pmobile has no VAE encoder, so it cannot start from a picture; convert with --image-to-image");
  EXPECT_TRUE(other.loaded.empty());
}

TEST_F(FromAPicture, RefusesWhatIsNotRecordedOrNotFinite) {
  EncoderBackend backend(bundle_);
  Pipeline pipeline(bundle_, backend);
  Wish another = wish(0.6);
  another.image->picture.rgb[7] ^= 1;
  EXPECT_EQ(kind_thrown([&] { pipeline.draw(another); }), "backend");
  backend.spoilt = true;
  EXPECT_EQ(kind_thrown([&] { pipeline.draw(wish(0.6)); }), "check_failed");
}

TEST_F(FromAPicture, RefusesAnEncoderThatDoesNotFit) {
  const std::pair<const char*, nlohmann::json> edits[] = {{"/inputs/0/shape", {1, 3, 32, 40}}, {"/outputs/0/shape", {1, 4, 4, 6}},
                                                          {"/outputs/0/dtype", "float16"},     {"/outputs", nlohmann::json::array()},
                                                          {"/inputs", nlohmann::json::array()}};
  for (const auto& [path, value] : edits) {
    const testing::TemporaryFolder folder;
    const auto copy = folder.path() / "b.s2pmobile";
    testing::fs::copy(kFixtures / "picture.s2pmobile", copy, testing::fs::copy_options::recursive);
    auto manifest = testing::read_json(copy / "manifest.json");
    manifest["components"]["vae_encoder"][nlohmann::json::json_pointer(path)] = value;
    testing::write_text(copy / "manifest.json", manifest.dump());
    const Bundle edited = Bundle::open(copy);
    ReplayBackend backend(edited);
    EXPECT_EQ(kind_thrown([&edited, &backend] { Pipeline pipeline(edited, backend); }), "bad_input") << path;
  }
}

TEST(LatentSpec, EncodesWithTheStatisticsOfEveryChannel) {
  const LatentSpec spec = Bundle::open(kFixtures / "picture.s2pmobile").manifest().latents;
  // Means, then log variances that must not be looked at.
  std::vector<float> moments(2 * spec.count(), 1e30F);
  for (std::size_t i = 0; i < spec.count(); ++i) moments[i] = 0.01F * static_cast<float>(i);
  const auto latents = spec.encoded(moments);
  ASSERT_EQ(latents.size(), spec.count());
  const std::vector<float> means = {-1.5F, 1.75F, -1.25F, 2.5F};
  const std::vector<float> deviations = {8.5F, 6.0F, 6.5F, 5.25F};
  for (std::size_t i = 0; i < latents.size(); ++i) {
    const std::size_t channel = i / (spec.count() / 4);
    EXPECT_EQ(latents[i], (moments[i] - 0.125F - means[channel]) / deviations[channel] * 0.5F) << i;
  }
  moments.resize(spec.count());
  EXPECT_LE(relative_error(spec.decoder_input(latents), moments), 1e-6);
}

}  // namespace
}  // namespace s2p
