#include "s2p/pipeline.h"

#include "s2p/error.h"
#include "s2p/safetensors.h"

namespace s2p {
namespace {

constexpr const char* kTextEncoder = "text_encoder";
constexpr const char* kUnet = "unet";
constexpr const char* kVaeDecoder = "vae_decoder";

struct Expected {
  const char* name;
  std::vector<DType> dtypes;
  std::vector<std::int64_t> shape;
};

void check_tensor(const std::string& component, const TensorSpec& spec, const Expected& expected) {
  bool fits = spec.name == expected.name && spec.shape == expected.shape;
  bool known = false;
  for (const DType dtype : expected.dtypes) known = known || spec.dtype == dtype;
  if (!fits || !known) {
    throw Error(ErrorKind::bad_input, "component " + component + " has a tensor '" + spec.name +
                                          "' that does not fit the bundle's latents and tokenizer; convert the model again");
  }
}

void check(const Component& component, const std::string& name, const std::vector<Expected>& inputs, const Expected& output) {
  if (component.inputs.size() != inputs.size() || component.outputs.empty()) {
    throw Error(ErrorKind::bad_input, "component " + name + " has another number of tensors; convert the model again");
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) check_tensor(name, component.inputs[i], inputs[i]);
  check_tensor(name, component.outputs.front(), output);
}

std::vector<float> checked(std::vector<float> output, const TensorSpec& spec, const std::string& component) {
  if (output.size() != element_count(spec.shape)) {
    throw Error(ErrorKind::backend, "component " + component + " gave another number of values than its manifest says; "
                                                               "convert the model again");
  }
  return output;
}

}  // namespace

Pipeline::Pipeline(const Bundle& bundle, Backend& backend, Residency residency)
    : bundle_(bundle),
      backend_(backend),
      residency_(residency),
      tokenizer_(ClipTokenizer::load(bundle.path(bundle.manifest().tokenizer.vocab),
                                     bundle.path(bundle.manifest().tokenizer.merges), bundle.manifest().tokenizer)) {
  check_components();
}

void Pipeline::check_components() const {
  const Manifest& manifest = bundle_.manifest();
  const Component& text = bundle_.component(kTextEncoder);
  const Component& unet = bundle_.component(kUnet);
  const Component& vae = bundle_.component(kVaeDecoder);
  const auto tokens = static_cast<std::int64_t>(manifest.tokenizer.max_length);
  const LatentSpec& latents = manifest.latents;
  const std::int64_t width = text.outputs.empty() || text.outputs[0].shape.size() != 3 ? 0 : text.outputs[0].shape[2];
  const std::int64_t batch = manifest.batch();
  const std::vector<std::int64_t> state = {batch, latents.channels, latents.height, latents.width};
  const std::vector<DType> f32 = {DType::float32};
  // How much larger the picture is than the latents is the decoder's affair: 8 times for Stable Diffusion.
  const bool picture = !vae.outputs.empty() && vae.outputs[0].shape.size() == 4;
  const std::int64_t rows = picture ? vae.outputs[0].shape[2] : 0;
  const std::int64_t columns = picture ? vae.outputs[0].shape[3] : 0;
  check(text, kTextEncoder, {{"input_ids", {DType::int32, DType::int64}, {1, tokens}}}, {"last_hidden_state", f32, {1, tokens, width}});
  check(unet, kUnet,
        {{"sample", f32, state},
         {"step", {DType::int32, DType::int64}, {1}},
         {"encoder_hidden_states", f32, {batch, tokens, width}}},
        {"noise_pred", f32, state});
  check(vae, kVaeDecoder, {{"latents", f32, {1, latents.channels, latents.height, latents.width}}},
        {"image", f32, {1, 3, rows, columns}});
}

void Pipeline::load() {
  for (const char* name : {kTextEncoder, kUnet, kVaeDecoder}) program(name);
}

Program& Pipeline::program(const std::string& name) {
  std::unique_ptr<Program>& loaded = programs_[name];
  if (!loaded) {
    const Component& component = bundle_.component(name);
    const auto start = Clock::now();
    loaded = backend_.load(name, component, bundle_.path(component.path));
    load_ms_[name] = milliseconds_since(start);
  }
  return *loaded;
}

void Pipeline::finished(const std::string& name) {
  if (residency_ == Residency::release) programs_[name].reset();
}

Drawing Pipeline::draw(const std::string& prompt, std::uint64_t seed, const OnCall& on_call) {
  Drawing drawing;
  const auto start = Clock::now();
  const std::vector<float> embeddings = embed(prompt);
  drawing.timings.text_encoder = milliseconds_since(start);
  drawing.latents = denoise_latents(embeddings, seed, drawing.timings, on_call);
  const auto decoder_start = Clock::now();
  drawing.picture = decode(drawing.latents);
  drawing.timings.vae_decoder = milliseconds_since(decoder_start);
  drawing.timings.image = milliseconds_since(start);
  return drawing;
}

std::vector<float> Pipeline::embed(const std::string& prompt) {
  const Component& component = bundle_.component(kTextEncoder);
  std::vector<std::string> texts;
  if (bundle_.manifest().batch() == 2) texts.emplace_back();
  texts.push_back(prompt);
  std::vector<float> embeddings;
  for (const std::string& text : texts) {
    const std::vector<std::int32_t> ids = tokenizer_.encode(text);
    const std::vector<std::int64_t> wide_ids(ids.begin(), ids.end());
    const TensorSpec& input = component.inputs[0];
    const void* data = input.dtype == DType::int64 ? static_cast<const void*>(wide_ids.data()) : ids.data();
    const auto output =
        checked(program(kTextEncoder).run({{input.dtype, input.shape, data}}), component.outputs[0], kTextEncoder);
    embeddings.insert(embeddings.end(), output.begin(), output.end());
  }
  finished(kTextEncoder);
  return embeddings;
}

std::vector<float> Pipeline::denoise_latents(const std::vector<float>& embeddings, std::uint64_t seed,
                                             ImageTimings& timings, const OnCall& on_call) {
  const Manifest& manifest = bundle_.manifest();
  const Component& component = bundle_.component(kUnet);
  const std::size_t count = manifest.latents.count();
  const auto batch = static_cast<std::size_t>(manifest.batch());
  std::vector<float> sample(batch * count);
  const auto predict = [&](const std::vector<float>& scaled, std::size_t call) {
    for (std::size_t b = 0; b < batch; ++b) {
      std::copy(scaled.begin(), scaled.end(), sample.begin() + static_cast<std::ptrdiff_t>(b * count));
    }
    const auto wide_step = static_cast<std::int64_t>(call);
    const auto narrow_step = static_cast<std::int32_t>(call);
    const TensorSpec& step = component.inputs[1];
    const void* step_data = step.dtype == DType::int64 ? static_cast<const void*>(&wide_step) : &narrow_step;
    Program& unet = program(kUnet);
    const auto start = Clock::now();
    std::vector<float> output = unet.run({{component.inputs[0].dtype, component.inputs[0].shape, sample.data()},
                                          {step.dtype, step.shape, step_data},
                                          {component.inputs[2].dtype, component.inputs[2].shape, embeddings.data()}});
    timings.unet_call.push_back(milliseconds_since(start));
    if (on_call) on_call(call);
    return guide(checked(std::move(output), component.outputs[0], kUnet), count, manifest.guidance);
  };
  std::vector<float> latents = denoise(manifest.plan, predict, initial_latents(manifest.plan, seed, count), seed);
  finished(kUnet);
  return latents;
}

Picture Pipeline::decode(const std::vector<float>& latents) {
  const LatentSpec& spec = bundle_.manifest().latents;
  const Component& component = bundle_.component(kVaeDecoder);
  const auto scale = static_cast<float>(spec.scaling_factor);
  const auto shift = static_cast<float>(spec.shift_factor);
  std::vector<float> input(latents.size());
  for (std::size_t i = 0; i < latents.size(); ++i) input[i] = latents[i] / scale + shift;
  const auto output = checked(program(kVaeDecoder).run({{DType::float32, component.inputs[0].shape, input.data()}}),
                              component.outputs[0], kVaeDecoder);
  finished(kVaeDecoder);
  const auto& shape = component.outputs[0].shape;
  return to_picture(output, static_cast<std::size_t>(shape[2]), static_cast<std::size_t>(shape[3]));
}

}  // namespace s2p
