#include "s2p/manifest.h"

#include <algorithm>
#include <limits>
#include <set>

#include "s2p/error.h"

namespace s2p {
namespace {

constexpr const char* kFormat = "s2p-bundle";
constexpr std::int64_t kVersion = 1;
// Far above any picture, far below what would overflow when a shape is multiplied out.
constexpr std::int64_t kMaxLatentDimension = 1 << 16;
constexpr std::int64_t kMaxTokens = 1 << 16;
// Of one tensor: eight gigabytes of float32, more than any phone has for one.
constexpr std::int64_t kMaxElements = std::int64_t{1} << 31;
constexpr std::size_t kMaxRank = 8;
constexpr std::int64_t kMaxPictureDimension = 1 << 16;
// Of one picture: a thousand times those of Stable Diffusion.
constexpr std::int64_t kMaxLatentElements = std::int64_t{1} << 24;
constexpr std::size_t kMaxAddedTokens = 1 << 16;
constexpr std::int64_t kMaxTokenId = std::numeric_limits<std::int32_t>::max();

DType read_dtype(const std::string& name) {
  if (name == "float16") return DType::float16;
  if (name == "float32") return DType::float32;
  return name == "int32" ? DType::int32 : DType::int64;
}

std::vector<TensorSpec> read_tensors(const Json& list, const std::string& path) {
  std::vector<TensorSpec> specs;
  for (std::size_t i = 0; i < list.size(); ++i) {
    Fields fields(list[i], path + "." + std::to_string(i));
    TensorSpec spec;
    spec.name = fields.text("name");
    spec.dtype = read_dtype(fields.choice("dtype", {"float16", "float32", "int32", "int64"}));
    std::int64_t count = 1;
    for (const Json& dimension : fields.array("shape")) {
      spec.shape.push_back(whole_number(dimension, fields.path_of("shape"), 0, std::numeric_limits<std::int32_t>::max()));
      count *= std::max<std::int64_t>(spec.shape.back(), 1);
      if (spec.shape.size() > kMaxRank || count > kMaxElements) invalid(fields.path_of("shape"), "too large");
    }
    fields.finish();
    specs.push_back(std::move(spec));
  }
  return specs;
}

/// Files of a program by chip; `path` is one of them.
std::map<std::string, std::string> read_chips(Fields& fields, const std::string& path) {
  const Json& listed = fields.required("chips");
  if (!listed.is_object() || listed.empty()) invalid(fields.path_of("chips"), "not an object with a file for each chip");
  std::map<std::string, std::string> chips;
  for (const auto& [chip, file] : listed.items()) {
    if (!file.is_string()) invalid(fields.path_of("chips"), "not a file for each chip");
    chips.emplace(chip, file.get<std::string>());
  }
  const bool has_path = std::any_of(chips.begin(), chips.end(), [&path](const auto& entry) { return entry.second == path; });
  if (!has_path) invalid(fields.path_of("chips"), "path is none of its files");
  return chips;
}

Component read_component(Fields fields) {
  Component component;
  component.path = fields.text("path");
  component.precision = fields.choice("precision", {"float16", "float32"});
  component.inputs = read_tensors(fields.array("inputs"), fields.path_of("inputs"));
  component.outputs = read_tensors(fields.array("outputs"), fields.path_of("outputs"));
  component.backend = fields.text("backend");
  if (fields.has("compute_unit")) component.compute_unit = fields.choice("compute_unit", {"neural-engine", "gpu", "all"});
  if (fields.has("chips")) component.chips = read_chips(fields, component.path);
  fields.finish();
  return component;
}

/// A number for each channel, or null.
std::optional<std::vector<double>> read_statistics(Fields& fields, const std::string& name, std::int64_t channels) {
  const Json& values = fields.required(name);
  if (values.is_null()) return std::nullopt;
  if (!values.is_array() || values.size() != static_cast<std::size_t>(channels)) {
    invalid(fields.path_of(name), "not a number for each channel");
  }
  std::vector<double> numbers;
  for (const Json& value : values) numbers.push_back(finite_number(value, fields.path_of(name)));
  return numbers;
}

LatentSpec read_latents(Fields fields) {
  LatentSpec latents;
  latents.channels = fields.integer("channels", 1, kMaxLatentDimension);
  latents.height = fields.integer("height", 1, kMaxLatentDimension);
  latents.width = fields.integer("width", 1, kMaxLatentDimension);
  if (latents.channels * latents.height * latents.width > kMaxLatentElements) invalid(fields.path_of("channels"), "too many latents");
  latents.scaling_factor = fields.positive("scaling_factor");
  latents.shift_factor = fields.number("shift_factor");
  latents.means = read_statistics(fields, "mean", latents.channels);
  latents.deviations = read_statistics(fields, "std", latents.channels);
  fields.finish();
  return latents;
}

std::int32_t read_id(Fields& fields, const std::string& name) {
  return static_cast<std::int32_t>(fields.integer(name, 0, kMaxTokenId));
}

AddedToken read_added_token(Fields fields) {
  AddedToken token;
  token.content = fields.text("content");
  if (token.content.empty()) invalid(fields.path_of("content"), "empty");
  token.id = read_id(fields, "id");
  token.special = fields.boolean("special");
  token.lstrip = fields.boolean("lstrip");
  token.rstrip = fields.boolean("rstrip");
  token.single_word = fields.boolean("single_word");
  token.normalized = fields.boolean("normalized");
  fields.finish();
  return token;
}

TokenizerSpec read_tokenizer(Fields fields) {
  TokenizerSpec tokenizer;
  fields.choice("kind", {"clip"});
  tokenizer.vocab = fields.text("vocab");
  tokenizer.merges = fields.text("merges");
  tokenizer.max_length = static_cast<std::size_t>(fields.integer("max_length", 2, kMaxTokens));
  tokenizer.bos_id = read_id(fields, "bos_id");
  tokenizer.eos_id = read_id(fields, "eos_id");
  tokenizer.unk_id = read_id(fields, "unk_id");
  tokenizer.pad_id = read_id(fields, "pad_id");
  const Json& added = fields.array("added_tokens");
  const std::string path = fields.path_of("added_tokens");
  if (added.size() > kMaxAddedTokens) invalid(path, "more than " + std::to_string(kMaxAddedTokens));
  std::set<std::string> contents;
  for (std::size_t i = 0; i < added.size(); ++i) {
    tokenizer.added_tokens.push_back(read_added_token(Fields(added[i], path + "." + std::to_string(i))));
    if (!contents.insert(tokenizer.added_tokens.back().content).second) invalid(path, "two have the same content");
  }
  fields.finish();
  return tokenizer;
}

Conditioning read_conditioning(Fields fields) {
  Conditioning conditioning;
  conditioning.second_tokenizer = read_tokenizer(fields.object("second_tokenizer"));
  conditioning.zero_unconditional = fields.boolean("zero_unconditional");
  const Json& ids = fields.array("time_ids");
  if (ids.size() != conditioning.time_ids.size()) invalid(fields.path_of("time_ids"), "not six numbers");
  for (std::size_t i = 0; i < ids.size(); ++i) {
    conditioning.time_ids[i] = static_cast<float>(finite_number(ids[i], fields.path_of("time_ids")));
  }
  fields.finish();
  return conditioning;
}

LayerSummary read_layer(Fields fields) {
  LayerSummary layer;
  layer.name = fields.text("name");
  layer.kind = fields.choice("kind", {"conv", "linear"});
  layer.weight_bits = fields.integer("weight_bits", std::numeric_limits<std::int64_t>::min());
  layer.activation_bits = fields.integer_or_null("activation_bits");
  layer.scheme = fields.text("scheme");
  layer.weights = fields.integer("weights", 1);
  layer.bytes = fields.integer("bytes", 0);
  fields.finish();
  return layer;
}

QuantizationSummary read_quantization(Fields fields) {
  QuantizationSummary summary;
  summary.method = fields.text("method");
  summary.recipe = fields.text("recipe");
  summary.average_weight_bits = fields.number("average_weight_bits");
  summary.unet_bytes = fields.integer("unet_bytes", 0);
  summary.unet_download_bytes = fields.integer("unet_download_bytes", 0);
  summary.unet_fp32_bytes = fields.integer("unet_fp32_bytes", 0);
  const Json& layers = fields.array("layers");
  for (std::size_t i = 0; i < layers.size(); ++i) {
    summary.layers.push_back(read_layer(Fields(layers[i], fields.path_of("layers." + std::to_string(i)))));
  }
  fields.finish();
  return summary;
}

GoldenRun read_golden(Fields fields) {
  GoldenRun run;
  run.id = fields.text("id");
  const bool plain = std::all_of(run.id.begin(), run.id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
  if (run.id.empty() || !plain) invalid(fields.path_of("id"), "not lower-case letters, digits and '-'");
  run.prompt = fields.text("prompt");
  run.seed = fields.unsigned_integer("seed");
  run.path = fields.text("path");
  fields.finish();
  return run;
}

/// Whether this may be the name of a method of a program.
bool is_identifier(const std::string& text) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  return !text.empty() && is_letter(text.front()) &&
         std::all_of(text.begin(), text.end(), [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

PictureSize read_size(Fields fields, std::int64_t channels) {
  PictureSize size;
  size.width = fields.integer("width", 1, kMaxPictureDimension);
  size.height = fields.integer("height", 1, kMaxPictureDimension);
  if (3 * size.width * size.height > kMaxElements) invalid(fields.path_of("width"), "too many pixels");
  size.latent_width = fields.integer("latent_width", 1, kMaxLatentDimension);
  size.latent_height = fields.integer("latent_height", 1, kMaxLatentDimension);
  if (channels * size.latent_width * size.latent_height > kMaxLatentElements) invalid(fields.path_of("latent_width"), "too many latents");
  if (!fields.is_null("method")) {
    size.method = fields.text("method");
    if (!is_identifier(*size.method)) invalid(fields.path_of("method"), "not of letters, digits and '_'");
  }
  if (!fields.is_null("check")) size.check = fields.text("check");
  fields.finish();
  return size;
}

void check_format(const Json& document, const std::string& source) {
  const bool known = document.is_object() && document.contains("format") && document["format"] == kFormat;
  if (!known) {
    throw Error(ErrorKind::wrong_format,
                source + " is not of format '" + kFormat + "'; give a folder made by s2p-mobile convert");
  }
  const auto version = document.find("version");
  if (version == document.end() || !version->is_number_integer() || *version < 1) {
    throw Error(ErrorKind::bad_version, source + " has no valid version number; get it from its author again");
  }
  if (*version > kVersion) {
    throw Error(ErrorKind::future_version, source + " has format version " + version->dump() + ", this program reads " +
                                               std::to_string(kVersion) + "; update the program");
  }
}

Manifest read_manifest(const Json& document) {
  Fields fields(document, "");
  Manifest manifest;
  fields.required("format");
  fields.required("version");
  manifest.name = fields.text("name");
  manifest.family = fields.text("family");
  manifest.target = fields.target("target");
  manifest.producer = fields.text("producer");
  manifest.checkpoint_sha256 = fields.sha256("checkpoint_sha256");
  const Json& components = fields.required("components");
  if (!components.is_object()) invalid("components", "not an object");
  for (const auto& [name, value] : components.items()) {
    manifest.components.emplace(name, read_component(Fields(value, "components." + name)));
  }
  manifest.plan = SamplingPlan::read(fields.object("plan"));
  if (fields.has("image_starts")) manifest.image_starts = read_image_starts(fields.array("image_starts"), "image_starts", manifest.plan);
  manifest.guidance = fields.number("guidance");
  manifest.latents = read_latents(fields.object("latents"));
  manifest.tokenizer = read_tokenizer(fields.object("tokenizer"));
  manifest.quantization = read_quantization(fields.object("quantization"));
  const Json& golden = fields.array("golden");
  for (std::size_t i = 0; i < golden.size(); ++i) {
    manifest.golden.push_back(read_golden(Fields(golden[i], "golden." + std::to_string(i))));
  }
  const Json& sizes = fields.array("sizes");
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    manifest.sizes.push_back(read_size(Fields(sizes[i], "sizes." + std::to_string(i)), manifest.latents.channels));
  }
  for (const Json& name : fields.array("chunks")) {
    if (!name.is_string()) invalid("chunks", "not a list of names");
    manifest.chunks.push_back(name.get<std::string>());
  }
  if (!fields.is_null("conditioning")) manifest.conditioning = read_conditioning(fields.object("conditioning"));
  const Json& files = fields.required("files");
  if (!files.is_object()) invalid("files", "not an object");
  for (const auto& [name, value] : files.items()) {
    Fields entry(value, "files." + name);
    manifest.files[name] = {entry.sha256("sha256"), static_cast<std::uint64_t>(entry.integer("bytes", 0))};
    entry.finish();
  }
  fields.finish();
  manifest.check_links();
  return manifest;
}

}  // namespace

const PictureSize& Manifest::size_of(std::int64_t width, std::int64_t height) const {
  const auto found = std::find_if(sizes.begin(), sizes.end(), [&](const PictureSize& size) {
    return size.width == width && size.height == height;
  });
  if (found != sizes.end()) return *found;
  std::string known;
  for (const PictureSize& size : sizes) known += (known.empty() ? "" : ", ") + size.title();
  const std::string wanted = std::to_string(width) + "x" + std::to_string(height);
  throw Error(ErrorKind::bad_input, "the bundle draws " + known + ", not " + wanted + "; choose one of these, or convert again with --size " +
                                        wanted);
}

std::array<float, 6> Manifest::time_ids(const PictureSize& size) const {
  if (size.fits(latents)) return conditioning->time_ids;
  const auto width = static_cast<float>(size.width);
  const auto height = static_cast<float>(size.height);
  return {height, width, 0.0F, 0.0F, height, width};
}

Manifest Manifest::parse(const std::string& text, const std::string& source) {
  Json document;
  try {
    document = Json::parse(text);
  } catch (const Json::exception&) {
    throw Error(ErrorKind::not_json, source + " is not readable JSON; get it from its author again");
  }
  check_format(document, source);
  try {
    return read_manifest(document);
  } catch (const Error& error) {
    throw Error(error.kind(), source + " is invalid (" + error.what() + "); get it from its author again");
  }
}

}  // namespace s2p
