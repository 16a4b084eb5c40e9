#include <algorithm>
#include <set>
#include <utility>

#include "s2p/manifest.h"

// What the parts of a manifest say of each other: files of programs, programs of chips, chunks, sizes.

namespace s2p {
namespace {

void check_sizes(const Manifest& manifest) {
  if (manifest.sizes.empty()) invalid("sizes", "there is none");
  std::set<std::pair<std::int64_t, std::int64_t>> known;
  std::set<std::optional<std::string>> methods;
  for (std::size_t i = 0; i < manifest.sizes.size(); ++i) {
    const PictureSize& size = manifest.sizes[i];
    const std::string path = "sizes." + std::to_string(i);
    if (i == 0 && (!size.fits(manifest.latents) || size.check)) invalid(path, "not that of the latents, which golden runs check");
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

/// What a family or a way to draw needs is there with its component, or both are absent.
void check_pairs(const Manifest& manifest) {
  if (manifest.conditioning.has_value() != (manifest.components.count("time_table") != 0)) {
    invalid("conditioning", "goes with a component time_table");
  }
  if (manifest.image_starts.empty() == (manifest.components.count("vae_encoder") != 0)) {
    invalid("image_starts", "goes with a component vae_encoder");
  }
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

void Manifest::check_links() const {
  check_pairs(*this);
  check_references(*this);
  check_chips(*this);
  check_sizes(*this);
  if (!chunks.empty()) check_chunks(*this);
}

}  // namespace s2p
