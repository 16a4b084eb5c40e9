#include "s2p/pipeline.h"

#include <algorithm>
#include <cmath>

#include "s2p/component_checks.h"
#include "s2p/error.h"
#include "s2p/safetensors.h"

namespace s2p {
namespace {

std::vector<float> checked(std::vector<float> output, const TensorSpec& spec, const std::string& component) {
  if (output.size() != element_count(spec.shape)) {
    throw Error(ErrorKind::backend, "component " + component + " gave another number of values than its manifest says; "
                                                               "convert the model again");
  }
  return output;
}

/// `values` as they are. `what` names them in the message.
const std::vector<float>& require_finite(const std::vector<float>& values, const std::string& what) {
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
    throw Error(ErrorKind::check_failed, "the " + what + " not finite; convert the model with --precision fp32");
  }
  return values;
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
  for (const char* name : {kTextEncoder, kTimeTable, kVaeDecoder, kVaeEncoder}) {
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
  check_components(bundle);
  const PictureSize& first = bundle.manifest().sizes.front();
  set_size(first.width, first.height);
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

void Pipeline::set_size(std::int64_t width, std::int64_t height) {
  size_ = bundle_.manifest().size_of(width, height);
  for (const auto& [name, component] : bundle_.manifest().components) {
    Component sized = at_size(component, size_);
    if (components_[name].method != sized.method) programs_.erase(name);
    components_[name] = std::move(sized);
  }
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
    const Component& component = components_.at(name);
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
    for (const TensorSpec& input : components_.at(names[i]).inputs) last_use[input.name] = i;
  }
  std::map<std::string, std::vector<float>> between;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Component& component = components_.at(names[i]);
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
  return std::move(between.at(components_.at(names.back()).outputs.front().name));
}

void Pipeline::require_image_starts() const {
  if (bundle_.manifest().image_starts.empty()) {
    throw Error(ErrorKind::bad_input, bundle_.folder().filename().string() +
                                          " has no VAE encoder, so it cannot start from a picture; convert with --image-to-image");
  }
}

const ImageStart* Pipeline::image_start(const Wish& wish) const {
  if (!wish.image) return nullptr;
  require_image_starts();
  const Manifest& manifest = bundle_.manifest();
  const std::size_t skipped = skipped_steps(manifest.plan.steps, wish.image->strength);
  const Picture& picture = wish.image->picture;
  const auto width = static_cast<std::size_t>(size_.width);
  const auto height = static_cast<std::size_t>(size_.height);
  if (picture.width != width || picture.height != height || picture.rgb.size() != 3 * width * height) {
    throw Error(ErrorKind::bad_input, bundle_.folder().filename().string() + " starts from pictures of " + size_.title() + ", not " +
                                          std::to_string(picture.width) + "x" + std::to_string(picture.height) +
                                          "; scale and cut the picture to that size");
  }
  return &manifest.image_starts[skipped];
}

std::size_t Pipeline::first_call(const Wish& wish) const {
  const ImageStart* start = image_start(wish);
  return start == nullptr ? 0 : start->call;
}

Drawing Pipeline::draw(const Wish& wish, const Watcher& watcher) {
  Drawing drawing;
  const auto start = Clock::now();
  const ImageStart* picture = image_start(wish);
  const Conditions conditions = embed(wish);
  drawing.timings.text_encoder = milliseconds_since(start);
  drawing.latents = denoise_latents(conditions, wish, picture, drawing.timings, watcher);
  const auto decoder_start = Clock::now();
  drawing.picture = decode(drawing.latents);
  finished(kVaeDecoder);
  drawing.timings.vae_decoder = milliseconds_since(decoder_start);
  drawing.timings.image = milliseconds_since(start);
  return drawing;
}

Conditions Pipeline::embed(const Wish& wish) {
  const Component& component = components_.at(kTextEncoder);
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
  const Component& encoder = components_.at(kTextEncoder);
  const Component& network = components_.at(kTimeTable);
  const std::array<float, 6> ids_of_size = bundle_.manifest().time_ids(size_);
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
    time_ids.insert(time_ids.end(), ids_of_size.begin(), ids_of_size.end());
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

std::vector<float> Pipeline::denoise_latents(const Conditions& conditions, const Wish& wish, const ImageStart* picture,
                                             ImageTimings& timings, const Watcher& watcher) {
  const Manifest& manifest = bundle_.manifest();
  const std::size_t first = picture == nullptr ? 0 : picture->call;
  const Component component = at_size(unet_interface(bundle_), size_);
  const auto batch = static_cast<std::size_t>(manifest.batch());
  const std::size_t count = element_count(component.inputs[0].shape) / batch;
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
    const std::size_t made = call + 1 - first;
    if (watcher.preview_every != 0 && made % watcher.preview_every == 0 && call + 1 < calls) watcher.on_preview(call, decode(state));
  };
  std::vector<float> latents = picture == nullptr ? initial_latents(manifest.plan, wish.seed, count)
                                                  : picture_latents(*picture, encode(wish.image->picture), wish.seed);
  const SamplingPlan plan = picture == nullptr ? manifest.plan : begun_at(manifest.plan, *picture);
  latents = denoise(plan, predict, std::move(latents), wish.seed, on_state, first);
  for (const std::string& name : manifest.unet_programs()) finished(name);
  return latents;
}

std::vector<float> Pipeline::encode(const Picture& picture) {
  const Component& component = components_.at(kVaeEncoder);
  const std::vector<float> image = from_picture(picture);
  const auto moments = checked(program(kVaeEncoder).run({{DType::float32, component.inputs[0].shape, image.data()}}),
                               component.outputs[0], kVaeEncoder);
  finished(kVaeEncoder);
  return bundle_.manifest().latents.encoded(require_finite(moments, "latents of the picture to start from are"));
}

Picture Pipeline::decode(const std::vector<float>& latents) {
  const Component& component = components_.at(kVaeDecoder);
  const std::vector<float> input = bundle_.manifest().latents.decoder_input(latents);
  const auto output = checked(program(kVaeDecoder).run({{DType::float32, component.inputs[0].shape, input.data()}}),
                              component.outputs[0], kVaeDecoder);
  const auto& shape = component.outputs[0].shape;
  return to_picture(require_finite(output, "picture is"), static_cast<std::size_t>(shape[2]), static_cast<std::size_t>(shape[3]));
}

}  // namespace s2p
