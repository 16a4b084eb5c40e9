#include "s2p/pipeline.h"

#include <algorithm>
#include <cmath>

#include "s2p/error.h"
#include "s2p/safetensors.h"

namespace s2p {
namespace {

constexpr const char* kTextEncoder = "text_encoder";
constexpr const char* kTimeTable = "time_table";
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

/// The U-Net as one component, whether it is one program or several. Tensors between programs are float32 here.
Component unet_interface(const Bundle& bundle) {
  const std::vector<std::string> names = bundle.manifest().unet_programs();
  Component whole = bundle.component(names.back());
  if (names.size() == 1) return whole;
  std::map<std::string, TensorSpec> own;
  for (const std::string& name : names) {
    for (const TensorSpec& input : bundle.component(name).inputs) own.emplace(input.name, input);
  }
  for (const std::string& name : names) {
    for (const TensorSpec& output : bundle.component(name).outputs) {
      if (output.dtype != DType::float32) {
        throw Error(ErrorKind::bad_input, "component " + name + " gives a tensor '" + output.name + "' that is not float32; convert the model again");
      }
      own.erase(output.name);
    }
  }
  whole.inputs.clear();
  for (const char* name : {"sample", "step", "encoder_hidden_states", "time_table"}) {
    const auto found = own.find(name);
    if (found != own.end()) whole.inputs.push_back(found->second);
    own.erase(name);
  }
  for (const auto& [name, input] : own) whole.inputs.push_back(input);
  return whole;
}

std::vector<float> checked(std::vector<float> output, const TensorSpec& spec, const std::string& component) {
  if (output.size() != element_count(spec.shape)) {
    throw Error(ErrorKind::backend, "component " + component + " gave another number of values than its manifest says; "
                                                               "convert the model again");
  }
  return output;
}

/// Dimension `axis` of a component's output, 0 where there is none.
std::int64_t output_size(const Component& component, std::size_t output, std::size_t axis) {
  if (component.outputs.size() <= output || component.outputs[output].shape.size() <= axis) return 0;
  return component.outputs[output].shape[axis];
}

/// Token ids in the type that a component asks for; they and the view live as long as this.
class TokenIds {
 public:
  TokenIds(const std::vector<std::int32_t>& ids, const TensorSpec& spec) : narrow_(ids), wide_(ids.begin(), ids.end()), spec_(spec) {}
  TensorView view() const {
    const void* data = spec_.dtype == DType::int64 ? static_cast<const void*>(wide_.data()) : narrow_.data();
    return {spec_.dtype, spec_.shape, data};
  }

 private:
  std::vector<std::int32_t> narrow_;
  std::vector<std::int64_t> wide_;
  const TensorSpec& spec_;
};

/// The tokenizer of a bundle that `spec` describes.
ClipTokenizer load_tokenizer(const Bundle& bundle, const TokenizerSpec& spec) {
  return ClipTokenizer::load(bundle.path(spec.vocab), bundle.path(spec.merges), spec);
}

/// Bytes of a component's files.
std::uint64_t file_bytes(const Bundle& bundle, const std::string& name) {
  const std::string& path = bundle.component(name).path;
  std::uint64_t total = 0;
  for (const auto& [file, entry] : bundle.manifest().files) {
    if (file == path || file.compare(0, path.size() + 1, path + "/") == 0) total += entry.bytes;
  }
  return total;
}

}  // namespace

Stay within_budget(const Bundle& bundle, std::uint64_t bytes) {
  if (bytes == 0) return {};
  std::uint64_t all = 0;
  std::uint64_t unet = 0;
  for (const std::string& name : bundle.manifest().unet_programs()) unet += file_bytes(bundle, name);
  std::uint64_t largest = unet;
  for (const char* name : {kTextEncoder, kTimeTable, kVaeDecoder}) {
    if (bundle.manifest().components.count(name) == 0) continue;
    const std::uint64_t own = file_bytes(bundle, name);
    all += own;
    largest = std::max(largest, own);
  }
  all += unet;
  if (all <= bytes) return {};
  const bool apart = largest > bytes && !bundle.manifest().chunks.empty();
  return {Residency::release, apart ? Chunks::release : Chunks::keep};
}

Pipeline::Pipeline(const Bundle& bundle, Backend& backend, Residency residency, Chunks chunks)
    : bundle_(bundle),
      backend_(backend),
      residency_(residency),
      chunks_(chunks),
      tokenizer_(load_tokenizer(bundle, bundle.manifest().tokenizer)) {
  if (bundle.manifest().conditioning) second_tokenizer_ = load_tokenizer(bundle, bundle.manifest().conditioning->second_tokenizer);
  require_target();
  require_chip();
  check_components();
  if (chunks == Chunks::release && bundle.manifest().chunks.empty()) {
    throw Error(ErrorKind::bad_input, "the U-Net of " + bundle.folder().filename().string() +
                                          " is one program; leave --release-chunks out, or convert with --chunks");
  }
}

void Pipeline::require_target() const {
  const std::string& target = bundle_.manifest().target;
  const std::string runs(backend_.target());
  if (!runs.empty() && runs != target) {
    throw Error(ErrorKind::wrong_target, bundle_.folder().filename().string() + " is a bundle for " + target + "; this app runs " +
                                             runs + ", so convert the checkpoint for that");
  }
}

void Pipeline::require_chip() const {
  const std::vector<std::string> chips = bundle_.manifest().chips();
  // What runs no programs, as a replay, needs no chip for them.
  if (chips.empty() || backend_.target().empty()) return;
  const std::string is_for = bundle_.folder().filename().string() + " is for the NPU of " + joined(chips);
  if (!backend_.prepare_npu()) {
    throw Error(ErrorKind::wrong_target, is_for + ", whose engine this program does not bring; measure it with the app, or convert "
                                                  "with --backend xnnpack");
  }
  if (!bundle_.chip()) {
    throw Error(ErrorKind::wrong_target, is_for + ", and this device does not name its chip, which takes Android 12; convert with "
                                                  "--backend xnnpack");
  }
}

void Pipeline::check_components() const {
  const Manifest& manifest = bundle_.manifest();
  const Component& text = bundle_.component(kTextEncoder);
  const Component unet = unet_interface(bundle_);
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
  const Expected ids = {"input_ids", {DType::int32, DType::int64}, {1, tokens}};
  std::vector<Expected> unet_inputs = {{"sample", f32, state},
                                       {"step", {DType::int32, DType::int64}, {1}},
                                       {"encoder_hidden_states", f32, {batch, tokens, width}}};
  if (manifest.conditioning) {
    const Component& network = bundle_.component(kTimeTable);
    const std::int64_t pooled = output_size(text, 1, 1);
    const Expected table = {"time_table", f32, {batch, static_cast<std::int64_t>(manifest.plan.calls.size()), output_size(network, 0, 2)}};
    check(text, kTextEncoder, {ids, {"second_input_ids", ids.dtypes, ids.shape}}, {"hidden_states", f32, {1, tokens, width}});
    if (text.outputs.size() < 2) throw Error(ErrorKind::bad_input, "component text_encoder gives no pooled text; convert the model again");
    check_tensor(kTextEncoder, text.outputs[1], {"pooled_text", f32, {1, pooled}});
    check(network, kTimeTable, {{"pooled_text", f32, {batch, pooled}}, {"time_ids", f32, {batch, 6}}}, table);
    unet_inputs.push_back(table);
  } else {
    check(text, kTextEncoder, {ids}, {"last_hidden_state", f32, {1, tokens, width}});
  }
  check(unet, kUnet, unet_inputs, {"noise_pred", f32, state});
  check(vae, kVaeDecoder, {{"latents", f32, {1, latents.channels, latents.height, latents.width}}},
        {"image", f32, {1, 3, rows, columns}});
}

void Pipeline::load() {
  program(kTextEncoder);
  if (bundle_.manifest().conditioning) program(kTimeTable);
  load_unet();
  program(kVaeDecoder);
}

void Pipeline::unload() { programs_.clear(); }

void Pipeline::prewarm() {
  program(kTextEncoder);
  finished(kTextEncoder);
  if (bundle_.manifest().conditioning) {
    program(kTimeTable);
    finished(kTimeTable);
  }
  load_unet();
  for (const std::string& name : bundle_.manifest().unet_programs()) finished(name);
  program(kVaeDecoder);
  finished(kVaeDecoder);
}

void Pipeline::load_unet() {
  const std::vector<std::string> names = bundle_.manifest().unet_programs();
  // The sum over the programs begins again, unless nothing is to be loaded.
  if (std::any_of(names.begin(), names.end(), [&](const std::string& name) { return !programs_[name]; })) load_ms_.erase(kUnet);
  for (const std::string& name : names) {
    program(name);
    finished_chunk(name);
  }
}

Program& Pipeline::program(const std::string& name, bool counted) {
  std::unique_ptr<Program>& loaded = programs_[name];
  if (!loaded) {
    const Component& component = bundle_.component(name);
    const auto start = Clock::now();
    loaded = backend_.load(name, component, bundle_.path(component.path));
    const bool is_chunk = std::count(bundle_.manifest().chunks.begin(), bundle_.manifest().chunks.end(), name) != 0;
    if (is_chunk && counted) load_ms_[kUnet] += milliseconds_since(start);
    if (!is_chunk) load_ms_[name] = milliseconds_since(start);
  }
  return *loaded;
}

void Pipeline::finished(const std::string& name) {
  if (residency_ == Residency::release) programs_[name].reset();
}

void Pipeline::finished_chunk(const std::string& name) {
  if (chunks_ == Chunks::release) programs_[name].reset();
}

std::vector<float> Pipeline::call_unet(std::map<std::string, TensorView> known) {
  const std::vector<std::string> names = bundle_.manifest().unet_programs();
  std::map<std::string, std::size_t> last_use;
  for (std::size_t i = 0; i < names.size(); ++i) {
    for (const TensorSpec& input : bundle_.component(names[i]).inputs) last_use[input.name] = i;
  }
  std::map<std::string, std::vector<float>> between;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Component& component = bundle_.component(names[i]);
    std::vector<TensorView> inputs;
    for (const TensorSpec& input : component.inputs) inputs.push_back(known.at(input.name));
    std::vector<std::vector<float>> outputs = program(names[i], chunks_ == Chunks::keep).run_all(inputs);
    finished_chunk(names[i]);
    if (outputs.size() < component.outputs.size()) {
      throw Error(ErrorKind::backend, "component " + names[i] + " gave fewer tensors than its manifest says; convert the model again");
    }
    for (auto tensor = between.begin(); tensor != between.end();) {
      tensor = last_use[tensor->first] <= i ? between.erase(tensor) : std::next(tensor);
    }
    for (std::size_t k = 0; k < component.outputs.size(); ++k) {
      const TensorSpec& spec = component.outputs[k];
      std::vector<float>& kept = between[spec.name] = checked(std::move(outputs[k]), spec, names[i]);
      known[spec.name] = {spec.dtype, spec.shape, kept.data()};
    }
  }
  return std::move(between.at(bundle_.component(names.back()).outputs.front().name));
}

Drawing Pipeline::draw(const Wish& wish, const Watcher& watcher) {
  Drawing drawing;
  const auto start = Clock::now();
  const Conditions conditions = embed(wish);
  drawing.timings.text_encoder = milliseconds_since(start);
  drawing.latents = denoise_latents(conditions, wish.seed, drawing.timings, watcher);
  const auto decoder_start = Clock::now();
  drawing.picture = decode(drawing.latents);
  finished(kVaeDecoder);
  drawing.timings.vae_decoder = milliseconds_since(decoder_start);
  drawing.timings.image = milliseconds_since(start);
  return drawing;
}

Conditions Pipeline::embed(const Wish& wish) {
  const Component& component = bundle_.component(kTextEncoder);
  const bool guided = bundle_.manifest().batch() == 2;
  if (wish.negative_prompt && !guided) {
    throw Error(ErrorKind::bad_input, "a negative prompt has no effect in a bundle without guidance; leave it out");
  }
  std::vector<std::string> texts;
  if (guided) texts.push_back(wish.negative_prompt.value_or(""));
  texts.push_back(wish.prompt);
  if (bundle_.manifest().conditioning) return embed_pooled(texts, wish.negative_prompt.has_value());
  Conditions conditions;
  for (const std::string& text : texts) {
    const TokenIds ids(tokenizer_.encode(text), component.inputs[0]);
    const auto output = checked(program(kTextEncoder).run({ids.view()}), component.outputs[0], kTextEncoder);
    conditions.embeddings.insert(conditions.embeddings.end(), output.begin(), output.end());
  }
  finished(kTextEncoder);
  return conditions;
}

Conditions Pipeline::embed_pooled(const std::vector<std::string>& texts, bool own_negative) {
  const Conditioning& conditioning = *bundle_.manifest().conditioning;
  const Component& encoder = bundle_.component(kTextEncoder);
  const Component& network = bundle_.component(kTimeTable);
  Conditions conditions;
  std::vector<float> pooled;
  std::vector<float> time_ids;
  for (const std::string& text : texts) {
    std::vector<std::vector<float>> outputs;
    if (conditioning.zero_unconditional && !own_negative && texts.size() == 2 && &text == &texts.front()) {
      for (const TensorSpec& output : encoder.outputs) outputs.emplace_back(element_count(output.shape), 0.0f);
    } else {
      const TokenIds first(tokenizer_.encode(text), encoder.inputs[0]);
      const TokenIds second(second_tokenizer_->encode(text), encoder.inputs[1]);
      outputs = program(kTextEncoder).run_all({first.view(), second.view()});
    }
    if (outputs.size() < 2) throw Error(ErrorKind::backend, "component text_encoder gave no pooled text; convert the model again");
    const auto hidden = checked(std::move(outputs[0]), encoder.outputs[0], kTextEncoder);
    const auto own = checked(std::move(outputs[1]), encoder.outputs[1], kTextEncoder);
    conditions.embeddings.insert(conditions.embeddings.end(), hidden.begin(), hidden.end());
    pooled.insert(pooled.end(), own.begin(), own.end());
    time_ids.insert(time_ids.end(), conditioning.time_ids.begin(), conditioning.time_ids.end());
  }
  finished(kTextEncoder);
  const TensorSpec& text_input = network.inputs[0];
  const TensorSpec& ids_input = network.inputs[1];
  conditions.time_table = checked(program(kTimeTable).run({{text_input.dtype, text_input.shape, pooled.data()},
                                                           {ids_input.dtype, ids_input.shape, time_ids.data()}}),
                                  network.outputs[0], kTimeTable);
  finished(kTimeTable);
  return conditions;
}

std::vector<float> Pipeline::denoise_latents(const Conditions& conditions, std::uint64_t seed,
                                             ImageTimings& timings, const Watcher& watcher) {
  const Manifest& manifest = bundle_.manifest();
  const Component component = unet_interface(bundle_);
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
    // Loading is part of a call only where it happens at every call.
    if (chunks_ == Chunks::keep) {
      for (const std::string& name : manifest.unet_programs()) program(name);
    }
    const auto start = Clock::now();
    std::map<std::string, TensorView> inputs = {
        {component.inputs[0].name, {component.inputs[0].dtype, component.inputs[0].shape, sample.data()}},
        {step.name, {step.dtype, step.shape, step_data}},
        {component.inputs[2].name, {component.inputs[2].dtype, component.inputs[2].shape, conditions.embeddings.data()}}};
    if (manifest.conditioning) {
      inputs[component.inputs[3].name] = {component.inputs[3].dtype, component.inputs[3].shape, conditions.time_table.data()};
    }
    std::vector<float> output = call_unet(std::move(inputs));
    timings.unet_call.push_back(milliseconds_since(start));
    if (watcher.on_call) watcher.on_call(call);
    return guide(output, count, manifest.guidance);
  };
  const std::size_t calls = manifest.plan.calls.size();
  const auto on_state = [&](std::size_t call, const std::vector<float>& state) {
    // The last state is the picture itself.
    if (watcher.preview_every != 0 && (call + 1) % watcher.preview_every == 0 && call + 1 < calls) watcher.on_preview(call, decode(state));
  };
  std::vector<float> latents = denoise(manifest.plan, predict, initial_latents(manifest.plan, seed, count), seed, on_state);
  for (const std::string& name : manifest.unet_programs()) finished(name);
  return latents;
}

Picture Pipeline::decode(const std::vector<float>& latents) {
  const LatentSpec& spec = bundle_.manifest().latents;
  const Component& component = bundle_.component(kVaeDecoder);
  const auto scale = static_cast<float>(spec.scaling_factor);
  const auto shift = static_cast<float>(spec.shift_factor);
  const std::size_t plane = latents.size() / static_cast<std::size_t>(spec.channels);
  std::vector<float> input(latents.size());
  for (std::size_t i = 0; i < latents.size(); ++i) {
    const std::size_t channel = i / plane;
    const float deviation = spec.deviations ? static_cast<float>((*spec.deviations)[channel]) : 1.0F;
    const float mean = spec.means ? static_cast<float>((*spec.means)[channel]) : 0.0F;
    input[i] = latents[i] * deviation / scale + shift + mean;
  }
  const auto output = checked(program(kVaeDecoder).run({{DType::float32, component.inputs[0].shape, input.data()}}),
                              component.outputs[0], kVaeDecoder);
  if (!std::all_of(output.begin(), output.end(), [](float value) { return std::isfinite(value); })) {
    throw Error(ErrorKind::check_failed, "the picture is not finite; convert the model with --precision fp32");
  }
  const auto& shape = component.outputs[0].shape;
  return to_picture(output, static_cast<std::size_t>(shape[2]), static_cast<std::size_t>(shape[3]));
}

}  // namespace s2p
