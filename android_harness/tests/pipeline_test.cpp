#include "s2p/pipeline.h"

#include "fixtures.h"
#include "s2p/png.h"
#include "s2p/replay_backend.h"
#include "s2p/safetensors.h"

namespace s2p {
namespace {

using testing::kFixtures;
using testing::kind_thrown;

struct Case {
  const char* bundle;
  const char* golden;
};

/// Passes everything on and counts what is alive.
class CountingBackend : public Backend {
 public:
  explicit CountingBackend(Backend& inner) : inner_(inner) {}
  std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
    loaded.push_back(name);
    return std::make_unique<Counted>(inner_.load(name, component, file), *this);
  }
  std::string_view target() const override { return inner_.target(); }
  std::string describe(const Component& component) const override { return inner_.describe(component); }

  std::vector<std::string> loaded;
  int alive = 0;
  int most_alive = 0;

 private:
  struct Counted : Program {
    Counted(std::unique_ptr<Program> program, CountingBackend& backend) : inner(std::move(program)), owner(backend) {
      owner.most_alive = std::max(owner.most_alive, ++owner.alive);
    }
    ~Counted() override { --owner.alive; }
    std::vector<float> run(const std::vector<TensorView>& inputs) override { return inner->run(inputs); }
    std::unique_ptr<Program> inner;
    CountingBackend& owner;
  };
  Backend& inner_;
};

/// Answers with zeros of the wrong size.
class ShortBackend : public Backend {
 public:
  struct Short : Program {
    std::vector<float> run(const std::vector<TensorView>&) override { return {0.0f}; }
  };
  std::unique_ptr<Program> load(const std::string&, const Component&, const testing::fs::path&) override {
    return std::make_unique<Short>();
  }
  std::string_view target() const override { return "executorch"; }
  std::string describe(const Component&) const override { return "short"; }
};

/// Replays, and keeps what the VAE decoder is given.
class DecoderBackend : public ReplayBackend {
 public:
  using ReplayBackend::ReplayBackend;
  std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
    auto program = ReplayBackend::load(name, component, file);
    if (name != "vae_decoder") return program;
    return std::make_unique<Kept>(std::move(program), *this);
  }

  std::vector<float> given;

 private:
  struct Kept : Program {
    Kept(std::unique_ptr<Program> program, DecoderBackend& backend) : inner(std::move(program)), owner(backend) {}
    std::vector<float> run(const std::vector<TensorView>& inputs) override {
      std::int64_t count = 1;
      for (const std::int64_t dimension : inputs[0].shape) count *= dimension;
      const auto* data = static_cast<const float*>(inputs[0].data);
      owner.given.assign(data, data + count);
      return inner->run(inputs);
    }
    std::unique_ptr<Program> inner;
    DecoderBackend& owner;
  };
};

TEST(Pipeline, DecodesWithTheStatisticsOfEveryChannel) {
  const Bundle bundle = Bundle::open(kFixtures / "ancestral.s2pmobile");
  const GoldenRun& golden = bundle.manifest().golden[0];
  DecoderBackend backend(bundle);
  const std::vector<float> latents = Pipeline(bundle, backend).draw({golden.prompt, golden.seed, std::nullopt}).latents;
  // The fixture's numbers: latents * std / 0.5 + 0.125 + mean, each rounded to float in this order.
  const std::vector<float> means = {-1.5F, 1.75F, -1.25F, 2.5F};
  const std::vector<float> deviations = {8.5F, 6.0F, 6.5F, 5.25F};
  ASSERT_EQ(backend.given.size(), latents.size());
  const std::size_t plane = latents.size() / 4;
  for (std::size_t i = 0; i < latents.size(); ++i) {
    EXPECT_EQ(backend.given[i], latents[i] * deviations[i / plane] / 0.5F + 0.125F + means[i / plane]) << i;
  }
}

class GoldenPicture : public ::testing::TestWithParam<Case> {};

TEST_P(GoldenPicture, IsDrawnFromPromptToPixels) {
  const Bundle bundle = Bundle::open(kFixtures / GetParam().bundle);
  const GoldenRun& golden = bundle.manifest().golden[0];
  ReplayBackend backend(bundle);
  Pipeline pipeline(bundle, backend);
  std::size_t calls = 0;
  Watcher watcher;
  watcher.on_call = [&](std::size_t call) { EXPECT_EQ(call, calls++); };
  const Drawing drawing = pipeline.draw({golden.prompt, golden.seed, std::nullopt}, watcher);
  const TensorFile file(bundle.path(golden.path));
  EXPECT_EQ(drawing.latents, file.floats("quantized_latents"));
  EXPECT_EQ(drawing.picture.rgb, to_picture(file.floats("image"), drawing.picture.height, drawing.picture.width).rgb);
  EXPECT_EQ(calls, bundle.manifest().plan.calls.size());
  EXPECT_EQ(drawing.timings.unet_call.size(), calls);
  EXPECT_EQ(pipeline.load_ms().size(), bundle.manifest().conditioning ? 4u : 3u);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GoldenPicture,
                         ::testing::Values(Case{"replay.s2pmobile", "first"}, Case{"ancestral.s2pmobile", "only"},
                                           Case{"chunked.s2pmobile", "only"}, Case{"pooled.s2pmobile", "only"}));

/// Remembers the texts that the encoder is given, as token ids.
struct ListeningBackend : ReplayBackend {
  explicit ListeningBackend(const Bundle& bundle) : ReplayBackend(bundle), size(element_count(bundle.component("text_encoder").outputs[0].shape)) {}
  struct Ear : Program {
    explicit Ear(ListeningBackend& backend) : owner(backend) {}
    std::vector<float> run(const std::vector<TensorView>& inputs) override {
      const auto* ids = static_cast<const std::int32_t*>(inputs.at(0).data);
      owner.heard.emplace_back(ids, ids + element_count(inputs.at(0).shape));
      return std::vector<float>(owner.size);
    }
    ListeningBackend& owner;
  };
  std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
    if (name == "text_encoder") return std::make_unique<Ear>(*this);
    return ReplayBackend::load(name, component, file);
  }
  std::size_t size;
  std::vector<std::vector<std::int32_t>> heard;
};

TEST(Pipeline, TellsTheUnconditionalBranchTheNegativePrompt) {
  const Bundle bundle = Bundle::open(kFixtures / "replay.s2pmobile");
  ListeningBackend backend(bundle);
  Pipeline pipeline(bundle, backend);
  pipeline.draw({"a cat", 1, "a red hat"});
  pipeline.draw({"a cat", 1, std::nullopt});
  const TokenizerSpec& spec = bundle.manifest().tokenizer;
  const auto tokenizer = ClipTokenizer::load(bundle.path(spec.vocab), bundle.path(spec.merges), spec);
  ASSERT_EQ(backend.heard.size(), 4u);
  EXPECT_EQ(backend.heard[0], tokenizer.encode("a red hat"));
  EXPECT_EQ(backend.heard[1], tokenizer.encode("a cat"));
  EXPECT_EQ(backend.heard[2], tokenizer.encode(""));
  const Bundle unguided = Bundle::open(kFixtures / "ancestral.s2pmobile");
  ReplayBackend replay(unguided);
  EXPECT_EQ(kind_thrown([&] { Pipeline(unguided, replay).draw({"a blue cat", 3, "hat"}); }), "bad_input");
}

TEST(Pipeline, ShowsPreviewsAndEndsWhenItsWatcherDoes) {
  const Bundle bundle = Bundle::open(kFixtures / "ancestral.s2pmobile");
  const GoldenRun& golden = bundle.manifest().golden[0];
  ReplayBackend backend(bundle);
  Pipeline pipeline(bundle, backend);
  Watcher watcher;
  std::vector<std::size_t> previews;
  watcher.preview_every = 2;
  watcher.on_preview = [&](std::size_t call, const Picture& picture) {
    previews.push_back(call);
    EXPECT_EQ(picture.rgb.size(), 3u * 32 * 48);
  };
  EXPECT_EQ(pipeline.draw({golden.prompt, golden.seed, std::nullopt}, watcher).latents,
            pipeline.draw({golden.prompt, golden.seed, std::nullopt}).latents);
  EXPECT_EQ(previews, (std::vector<std::size_t>{1, 3}));  // of six calls; the last state is the picture
  struct Enough {};
  std::size_t calls = 0;
  watcher.on_call = [&](std::size_t) {
    if (++calls == 3) throw Enough{};
  };
  EXPECT_THROW(pipeline.draw({golden.prompt, golden.seed, std::nullopt}, watcher), Enough);
  EXPECT_EQ(calls, 3u);
  EXPECT_EQ(kind_thrown([&] { pipeline.draw({golden.prompt, golden.seed, std::nullopt}); }), "none");
}

TEST(Pipeline, StaysWithinABudgetWhereItCan) {
  const auto sum = [](const Bundle& bundle, const std::vector<std::string>& names) {
    std::uint64_t total = 0;
    for (const std::string& name : names) {
      for (const auto& [file, entry] : bundle.manifest().files) {
        const std::string& path = bundle.component(name).path;
        if (file == path || file.rfind(path + "/", 0) == 0) total += entry.bytes;
      }
    }
    return total;
  };
  const Bundle one = Bundle::open(kFixtures / "ancestral.s2pmobile");
  const std::uint64_t all = sum(one, {"text_encoder", "unet", "vae_decoder"});
  ASSERT_GT(all, 0u);
  EXPECT_EQ(within_budget(one, 0).residency, Residency::keep);
  EXPECT_EQ(within_budget(one, all).residency, Residency::keep);
  EXPECT_EQ(within_budget(one, all - 1).residency, Residency::release);
  EXPECT_EQ(within_budget(one, 1).chunks, Chunks::keep);  // one program cannot be taken apart
  const Bundle parts = Bundle::open(kFixtures / "chunked.s2pmobile");
  const std::uint64_t unet = sum(parts, {"unet_1", "unet_2", "unet_3"});
  EXPECT_EQ(within_budget(parts, unet).chunks, Chunks::keep);
  EXPECT_EQ(within_budget(parts, unet - 1).chunks, Chunks::release);
}

TEST(Pipeline, RefusesAPictureThatIsNotFinite) {
  const Bundle bundle = Bundle::open(kFixtures / "ancestral.s2pmobile");
  const GoldenRun& golden = bundle.manifest().golden[0];
  struct Broken : ReplayBackend {
    using ReplayBackend::ReplayBackend;
    struct Nothing : Program {
      explicit Nothing(std::size_t count) : size(count) {}
      std::vector<float> run(const std::vector<TensorView>&) override { return std::vector<float>(size, NAN); }
      std::size_t size;
    };
    std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
      if (name != "vae_decoder") return ReplayBackend::load(name, component, file);
      return std::make_unique<Nothing>(element_count(component.outputs[0].shape));
    }
  } backend(bundle);
  EXPECT_EQ(kind_thrown([&] { Pipeline(bundle, backend).draw({golden.prompt, golden.seed, std::nullopt}); }), "check_failed");
}

TEST(Pipeline, LoadsEachComponentOnceOrKeepsOneAtATime) {
  const Bundle bundle = Bundle::open(kFixtures / "ancestral.s2pmobile");
  const GoldenRun& golden = bundle.manifest().golden[0];
  ReplayBackend replay(bundle);
  CountingBackend keeping(replay);
  CountingBackend releasing(replay);
  Pipeline keep(bundle, keeping);
  Pipeline release(bundle, releasing, Residency::release);
  for (int picture = 0; picture < 2; ++picture) {
    EXPECT_EQ(keep.draw({golden.prompt, golden.seed, std::nullopt}).latents, release.draw({golden.prompt, golden.seed, std::nullopt}).latents);
  }
  EXPECT_EQ(keeping.loaded, (std::vector<std::string>{"text_encoder", "unet", "vae_decoder"}));
  EXPECT_EQ(keeping.most_alive, 3);
  EXPECT_EQ(releasing.loaded.size(), 6u);
  EXPECT_EQ(releasing.most_alive, 1);
  EXPECT_EQ(releasing.alive, 0);
}

/// A U-Net of chunked.s2pmobile whose tensors between programs are known: hidden_0 = sample, hidden_1 = sample + step,
/// hidden_2 = 2 hidden_1. The last program sees whether they arrived.
class FlowBackend : public ReplayBackend {
 public:
  using ReplayBackend::ReplayBackend;
  std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
    if (name.rfind("unet", 0) != 0) return ReplayBackend::load(name, component, file);
    ++loads[name];
    return std::make_unique<Flow>(name, component, *this);
  }

  std::map<std::string, int> loads;
  int alive = 0;
  int most_alive = 0;
  int right = 0;

 private:
  struct Flow : Program {
    Flow(std::string given_name, Component given, FlowBackend& backend)
        : name(std::move(given_name)), component(std::move(given)), owner(backend) {
      owner.most_alive = std::max(owner.most_alive, ++owner.alive);
    }
    ~Flow() override { --owner.alive; }
    std::vector<float> run(const std::vector<TensorView>& inputs) override { return run_all(inputs).front(); }
    std::vector<std::vector<float>> run_all(const std::vector<TensorView>& inputs) override {
      std::map<std::string, std::vector<float>> floats;
      float step = 0;
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        const TensorSpec& spec = component.inputs[i];
        if (spec.name == "step") {
          step = static_cast<float>(*static_cast<const std::int64_t*>(inputs[i].data));
        } else {
          const auto* data = static_cast<const float*>(inputs[i].data);
          floats[spec.name] = {data, data + element_count(inputs[i].shape)};
        }
      }
      const auto changed = [](std::vector<float> values, float factor, float term) {
        for (float& value : values) value = factor * value + term;
        return values;
      };
      if (name == "unet_1") return {floats["sample"], changed(floats["sample"], 1, step)};
      if (name == "unet_2") return {changed(floats["hidden_1"], 2, 0)};
      owner.right += floats["hidden_2"] == changed(changed(floats["hidden_0"], 1, step), 2, 0);
      return {floats["hidden_0"]};
    }
    std::string name;
    Component component;
    FlowBackend& owner;
  };
};

TEST(Pipeline, CarriesTensorsBetweenTheProgramsOfTheUnet) {
  const Bundle bundle = Bundle::open(kFixtures / "chunked.s2pmobile");
  const GoldenRun& golden = bundle.manifest().golden[0];
  const int calls = static_cast<int>(bundle.manifest().plan.calls.size());
  FlowBackend keeping(bundle);
  FlowBackend releasing(bundle);
  Pipeline keep(bundle, keeping);
  Pipeline release(bundle, releasing, Residency::keep, Chunks::release);
  keep.load();
  release.load();
  EXPECT_EQ(releasing.alive, 0);
  EXPECT_EQ(release.load_ms().count("unet"), 1u);
  EXPECT_EQ(keep.draw({golden.prompt, golden.seed, std::nullopt}).latents, release.draw({golden.prompt, golden.seed, std::nullopt}).latents);
  EXPECT_EQ(keeping.right, calls);
  EXPECT_EQ(releasing.right, calls);
  EXPECT_EQ(keeping.most_alive, 3);
  EXPECT_EQ(releasing.most_alive, 1);
  EXPECT_EQ(keeping.loads, (std::map<std::string, int>{{"unet_1", 1}, {"unet_2", 1}, {"unet_3", 1}}));
  EXPECT_EQ(releasing.loads, (std::map<std::string, int>{{"unet_1", calls + 1}, {"unet_2", calls + 1}, {"unet_3", calls + 1}}));
}

TEST(Pipeline, ReleasesChunksOnlyWhereThereAreSome) {
  const Bundle bundle = Bundle::open(kFixtures / "ancestral.s2pmobile");
  ReplayBackend backend(bundle);
  EXPECT_EQ(kind_thrown([&] { Pipeline(bundle, backend, Residency::keep, Chunks::release); }), "bad_input");
}

TEST(Pipeline, MakesTheTimeTableOfAPromptOnce) {
  // The replay compares token ids of both text encoders, pooled text, time ids and the U-Net's time table bit for bit, and the
  // empty text is no call of the encoder: its ids are not those of a recorded row of zeros.
  const Bundle bundle = Bundle::open(kFixtures / "pooled.s2pmobile");
  ReplayBackend replay(bundle);
  struct Counting : Backend {
    explicit Counting(Backend& backend) : inner(backend) {}
    struct Counted : Program {
      Counted(std::unique_ptr<Program> program, int& runs) : inner(std::move(program)), calls(runs) {}
      std::vector<float> run(const std::vector<TensorView>& inputs) override { return run_all(inputs).front(); }
      std::vector<std::vector<float>> run_all(const std::vector<TensorView>& inputs) override {
        ++calls;
        return inner->run_all(inputs);
      }
      std::unique_ptr<Program> inner;
      int& calls;
    };
    std::unique_ptr<Program> load(const std::string& name, const Component& component, const testing::fs::path& file) override {
      return std::make_unique<Counted>(inner.load(name, component, file), calls[name]);
    }
    std::string_view target() const override { return inner.target(); }
    std::string describe(const Component& component) const override { return inner.describe(component); }
    Backend& inner;
    std::map<std::string, int> calls;
  } backend(replay);
  Pipeline pipeline(bundle, backend);
  // A learned word of two vectors, and "!", which the second tokenizer fills with.
  const GoldenRun& golden = bundle.manifest().golden.front();
  pipeline.draw({golden.prompt, golden.seed, std::nullopt});
  const std::map<std::string, int> expected = {{"text_encoder", 1}, {"time_table", 1}, {"unet", 6}, {"vae_decoder", 1}};
  EXPECT_EQ(backend.calls, expected);
  pipeline.load();
  EXPECT_EQ(pipeline.load_ms().size(), 4u);
  EXPECT_EQ(kind_thrown([&] { pipeline.draw({"another cat", 3, std::nullopt}); }), "backend");
}

/// An engine whose programs manifests call coreml.
struct NamedBackend : ReplayBackend {
  using ReplayBackend::ReplayBackend;
  std::string_view target() const override { return "coreml"; }
};

TEST(Pipeline, RefusesBundlesForAnotherEngineByTheirTarget) {
  const auto cases = testing::read_json(kFixtures / "malformed/index.json")["engines"];
  ASSERT_GE(cases.size(), 3u);
  for (const auto& fixture : cases) {
    const testing::TemporaryFolder folder;
    const auto copy = folder.path() / "replay.s2pmobile";
    testing::fs::copy(kFixtures / "replay.s2pmobile", copy, testing::fs::copy_options::recursive);
    testing::write_text(copy / "manifest.json",
                        testing::read_text(kFixtures / "malformed" / fixture["manifest"].get<std::string>()));
    const Bundle bundle = Bundle::open(copy);
    NamedBackend engine(bundle);
    testing::expect_kind(fixture, [&] { Pipeline(bundle, engine); });
    try {
      Pipeline(bundle, engine);
    } catch (const Error& error) {
      const std::string line = "replay.s2pmobile is a bundle for " + bundle.manifest().target + "; this app runs coreml";
      EXPECT_EQ(std::string(error.what()).rfind(line, 0), 0u) << error.what();
    }
    // A replay runs no programs.
    ReplayBackend replay(bundle);
    EXPECT_EQ(kind_thrown([&] { Pipeline(bundle, replay); }), "none");
  }
  const Bundle own = Bundle::open(kFixtures / "replay.s2pmobile");
  NamedBackend engine(own);
  EXPECT_EQ(kind_thrown([&] { Pipeline(own, engine); }), "none");
}

TEST(Pipeline, RefusesAnAnswerOfTheWrongSize) {
  const Bundle bundle = Bundle::open(kFixtures / "ancestral.s2pmobile");
  ShortBackend backend;
  Pipeline pipeline(bundle, backend);
  EXPECT_EQ(kind_thrown([&] { pipeline.draw({"x", 0, std::nullopt}); }), "backend");
}

TEST(Pipeline, RefusesComponentsThatDoNotFitTheLatents) {
  const std::pair<std::vector<std::string>, nlohmann::json> edits[] = {
      {{"unet", "inputs", "0", "shape"}, {1, 4, 8, 8}}, {{"unet", "inputs", "0", "dtype"}, "float16"},
      {{"unet", "inputs", "1", "name"}, "timestep"},    {{"unet", "outputs", "0", "shape"}, {1, 4, 4, 5}},
      {{"vae_decoder", "outputs"}, nlohmann::json::array()}, {{"vae_decoder", "outputs", "0", "shape"}, {1, 1, 32, 48}}, {{"text_encoder", "inputs", "0", "shape"}, {1, 77}},
      {{"text_encoder", "outputs", "0", "shape"}, {1, 16, 9}}};
  for (const auto& [path, value] : edits) {
    const testing::TemporaryFolder folder;
    const auto copy = folder.path() / "b.s2pmobile";
    testing::fs::copy(kFixtures / "ancestral.s2pmobile", copy, testing::fs::copy_options::recursive);
    auto manifest = testing::read_json(copy / "manifest.json");
    nlohmann::json::json_pointer pointer("/components");
    for (const std::string& part : path) pointer /= part;
    manifest[pointer] = value;
    testing::write_text(copy / "manifest.json", manifest.dump());
    const Bundle bundle = Bundle::open(copy);
    ReplayBackend backend(bundle);
    EXPECT_EQ(kind_thrown([&] { Pipeline pipeline(bundle, backend); }), "bad_input") << pointer;
  }
}

// Round half to even after the clamp: 0.5 / 255 is halfway between 0 and 1, 1.5 / 255 between 1 and 2.
TEST(ToPicture, ClampsAndRoundsHalfToEven) {
  const auto value = [](float unit) { return 2.0f * unit - 1.0f; };
  const Picture picture = to_picture({value(0.0f), value(-3.0f), value(1.0f), value(9.0f), 0.0f, NAN}, 1, 2);
  EXPECT_EQ(picture.rgb, (std::vector<unsigned char>{0, 255, 128, 0, 255, 0}));
}

TEST(WritePng, SaysWhenItCannot) {
  EXPECT_EQ(kind_thrown([] { write_png("/nowhere/x.png", {1, 1, {0, 0, 0}}); }), "bad_input");
}

}  // namespace
}  // namespace s2p
