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

PictureSize read_size(Fields fields) {
  PictureSize size;
  size.width = fields.integer("width", 1);
  size.height = fields.integer("height", 1);
  size.latent_width = fields.integer("latent_width", 1, kMaxLatentDimension);
  size.latent_height = fields.integer("latent_height", 1, kMaxLatentDimension);
  if (!fields.is_null("method")) {
    size.method = fields.text("method");
    if (!is_identifier(*size.method)) invalid(fields.path_of("method"), "not of letters, digits and '_'");
  }
  if (!fields.is_null("check")) size.check = fields.text("check");
  fields.finish();
  return size;
}

void check_sizes(const Manifest& manifest) {
  if (manifest.sizes.empty()) invalid("sizes", "there is none");
  std::set<std::pair<std::int64_t, std::int64_t>> known;
  std::set<std::optional<std::string>> methods;
  for (std::size_t i = 0; i < manifest.sizes.size(); ++i) {
    const PictureSize& size = manifest.sizes[i];
    const std::string path = "sizes." + std::to_string(i);
    const bool own = size.latent_width == manifest.latents.width && size.latent_height == manifest.latents.height;
    if (i == 0 && (!own || size.check)) invalid(path, "not that of the latents, which golden runs check");
    if (i > 0 && (!size.check || manifest.files.count(*size.check) == 0)) invalid(path, "has no listed file");
    if (!known.emplace(size.width, size.height).second) invalid(path, "stands there twice");
    if (!methods.insert(size.method).second) invalid(path, "has the method of another one");
  }
}

bool operator==(const TensorSpec& a, const TensorSpec& b) { return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape; }

/// Every input of a chunk is there when its turn comes, with the same type and shape.
void check_chunks(const Manifest& manifest) {
  static const std::set<std::string> own = {"sample", "step", "timestep", "encoder_hidden_states", "time_table"};
  if (manifest.chunks.size() < 2) invalid("chunks", "must be several");
  if (manifest.components.count("unet") != 0 || manifest.sizes.size() > 1) {
    invalid("chunks", "such a bundle has no component unet and one picture size");
  }
  std::map<std::string, TensorSpec> known;
  std::set<std::string> seen;
  for (const std::string& name : manifest.chunks) {
    const auto found = manifest.components.find(name);
    if (found == manifest.components.end()) invalid("chunks", "there is no component " + name);
    if (!seen.insert(name).second) invalid("chunks", name + " stands there twice");
    for (const TensorSpec& input : found->second.inputs) {
      if (known.count(input.name) == 0 && own.count(input.name) == 0) {
        invalid("chunks", name + " needs " + input.name + ", which no program before it gives");
      }
      if (!(known.emplace(input.name, input).first->second == input)) {
        invalid("chunks", name + " takes " + input.name + " in another type or shape");
      }
    }
    for (const TensorSpec& output : found->second.outputs) {
      if (!known.emplace(output.name, output).second) invalid("chunks", name + " gives " + output.name + " again");
    }
  }
  const auto& last = manifest.components.at(manifest.chunks.back()).outputs;
  if (last.size() != 1 || last.front().name != "noise_pred") invalid("chunks", "the last does not give noise_pred alone");
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

/// Whether a file is what `path` names, or in it: a program may be a folder.
bool lies_in(const std::string& file, const std::string& path) {
  return file == path || file.compare(0, path.size() + 1, path + "/") == 0;
}

/// Words of the tokenizers, and golden runs.
std::vector<std::string> data_files(const Manifest& manifest) {
  std::vector<std::string> paths = {manifest.tokenizer.vocab, manifest.tokenizer.merges};
  if (manifest.conditioning) {
    const TokenizerSpec& second = manifest.conditioning->second_tokenizer;
    paths.insert(paths.end(), {second.vocab, second.merges});
  }
  for (const GoldenRun& run : manifest.golden) paths.push_back(run.path);
  return paths;
}

void check_references(const Manifest& manifest) {
  for (const auto& [name, component] : manifest.components) {
    const bool listed = std::any_of(manifest.files.begin(), manifest.files.end(), [&path = component.path](const auto& file) {
      return lies_in(file.first, path);
    });
    if (!listed) invalid("components." + name, "no file " + component.path);
    for (const auto& [chip, file] : component.chips) {
      if (manifest.files.count(file) == 0) invalid("components." + name, "no file " + file + " for " + chip);
    }
  }
  if (manifest.conditioning && manifest.conditioning->second_tokenizer.max_length != manifest.tokenizer.max_length) {
    invalid("conditioning.second_tokenizer.max_length", "another than that of tokenizer");
  }
  for (const std::string& path : data_files(manifest)) {
    if (manifest.files.count(path) == 0) invalid("files", path + " is not listed");
  }
}

/// A bundle is for a chip with all of its programs or not at all.
void check_chips(const Manifest& manifest) {
  const std::vector<std::string> known = manifest.chips();
  for (const auto& [name, component] : manifest.components) {
    const auto is_named = [&own = component.chips](const std::string& chip) { return own.count(chip) != 0; };
    const bool same = component.chips.size() == known.size() && std::all_of(known.begin(), known.end(), is_named);
    if (!component.chips.empty() && !same) invalid("components." + name, "chips: others than those of another component");
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
    manifest.sizes.push_back(read_size(Fields(sizes[i], "sizes." + std::to_string(i))));
  }
  for (const Json& name : fields.array("chunks")) {
    if (!name.is_string()) invalid("chunks", "not a list of names");
    manifest.chunks.push_back(name.get<std::string>());
  }
  if (!fields.is_null("conditioning")) manifest.conditioning = read_conditioning(fields.object("conditioning"));
  if (manifest.conditioning.has_value() != (manifest.components.count("time_table") != 0)) {
    invalid("conditioning", "goes with a component time_table");
  }
  const Json& files = fields.required("files");
  if (!files.is_object()) invalid("files", "not an object");
  for (const auto& [name, value] : files.items()) {
    Fields entry(value, "files." + name);
    manifest.files[name] = {entry.sha256("sha256"), static_cast<std::uint64_t>(entry.integer("bytes", 0))};
    entry.finish();
  }
  fields.finish();
  check_references(manifest);
  check_chips(manifest);
  check_sizes(manifest);
  if (!manifest.chunks.empty()) check_chunks(manifest);
  return manifest;
}

}  // namespace

std::vector<std::string> Manifest::chips() const {
  std::vector<std::string> names;
  const auto has_chips = [](const auto& component) { return !component.second.chips.empty(); };
  const auto first = std::find_if(components.begin(), components.end(), has_chips);
  if (first == components.end()) return names;
  for (const auto& [chip, file] : first->second.chips) names.push_back(chip);
  return names;
}

std::set<std::string> Manifest::unused_on(const std::string& chip) const {
  const std::vector<std::string> data = data_files(*this);
  std::set<std::string> used(data.begin(), data.end());
  for (const PictureSize& size : sizes) {
    if (size.check) used.insert(*size.check);
  }
  std::set<std::string> programs;
  for (const auto& [title, component] : components) {
    const auto own = component.chips.find(chip);
    used.insert(own == component.chips.end() ? component.path : own->second);
    for (const auto& [other, file] : component.chips) programs.insert(file);
  }
  std::set<std::string> folders;
  for (const std::string& each : chips()) folders.insert(each);
  std::set<std::string> unused;
  for (const auto& [file, entry] : files) {
    const bool is_a_chips = programs.count(file) != 0 || folders.count(file.substr(0, file.find('/'))) != 0;
    const bool is_used = std::any_of(used.begin(), used.end(), [&name_of_file = file](const std::string& path) {
      return lies_in(name_of_file, path);
    });
    if (is_a_chips && !is_used) unused.insert(file);
  }
  return unused;
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
