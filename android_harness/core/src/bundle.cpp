#include "s2p/bundle.h"

#include <algorithm>
#include <set>
#include <system_error>

#include "s2p/error.h"
#include "s2p/mapped_file.h"
#include "s2p/sha256.h"

namespace s2p {
namespace fs = std::filesystem;
namespace {

constexpr const char* kManifestName = "manifest.json";

void check_file(const fs::path& folder, const std::string& name, const FileEntry& entry) {
  const fs::path path = inside(folder, name);
  const std::string where = name + " in " + folder.filename().string();
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    throw Error(ErrorKind::missing_file, folder.filename().string() + " lacks " + name + "; get the folder again");
  }
  const std::uintmax_t size = fs::file_size(path, error);
  if (error || size != entry.bytes) {
    throw Error(ErrorKind::wrong_size, where + " has " + std::to_string(size) + " bytes instead of " +
                                           std::to_string(entry.bytes) + "; get the folder again");
  }
  if (sha256_file(path) != entry.sha256) {
    throw Error(ErrorKind::altered, where + " was altered (sha256 differs); get the folder again");
  }
}

/// Makes every component's path that of its program for this chip.
void pick_programs(Manifest& manifest, const std::string& chip, const std::string& bundle) {
  const std::vector<std::string> chips = manifest.chips();
  if (std::find(chips.begin(), chips.end(), chip) == chips.end()) {
    throw Error(ErrorKind::wrong_target, bundle + " is for the NPU of " + joined(chips) + ", and this device has " + chip +
                                             "; convert the checkpoint for that chip, or with --backend xnnpack");
  }
  for (auto& [name, component] : manifest.components) {
    if (!component.chips.empty()) component.path = component.chips.at(chip);
  }
}

}  // namespace

std::string joined(const std::vector<std::string>& names) {
  std::string line;
  for (const std::string& name : names) line += (line.empty() ? "" : ", ") + name;
  return line;
}

fs::path inside(const fs::path& folder, const std::string& relative) {
  const fs::path pure(relative);
  const bool upward = std::any_of(pure.begin(), pure.end(), [](const fs::path& part) { return part == ".."; });
  const bool forbidden = relative.find('\\') != std::string::npos || relative.find('\0') != std::string::npos;
  const std::string from = " in " + folder.filename().string();
  if (relative.empty() || pure.is_absolute() || upward || forbidden) {
    throw Error(ErrorKind::outside,
                "path '" + relative + "'" + from + " points outside its folder; get the folder from its author again");
  }
  std::error_code error;
  const fs::path root = fs::weakly_canonical(folder, error);
  const fs::path resolved = error ? fs::path() : fs::weakly_canonical(folder / pure, error);
  if (error || std::mismatch(root.begin(), root.end(), resolved.begin(), resolved.end()).first != root.end()) {
    throw Error(ErrorKind::outside,
                "path '" + relative + "'" + from + " is a link out of its folder; get the folder from its author again");
  }
  return folder / pure;
}

Bundle Bundle::open(const fs::path& given, const std::optional<std::string>& chip) {
  std::error_code error;
  // "x.s2pmobile/" has an empty file name, which would leave messages without the bundle's name.
  const fs::path folder = given.has_filename() ? given : given.parent_path();
  if (!fs::is_directory(folder, error)) {
    throw Error(ErrorKind::not_found, folder.string() + " is not a folder; give a bundle made by s2p-mobile convert");
  }
  const fs::path manifest_path = folder / kManifestName;
  if (!fs::is_regular_file(manifest_path, error)) {
    throw Error(ErrorKind::not_found,
                folder.string() + " has no " + kManifestName + "; give a bundle made by s2p-mobile convert");
  }
  const MappedFile file(manifest_path);
  const std::string text(reinterpret_cast<const char*>(file.data()), file.size());
  Manifest manifest = Manifest::parse(text, manifest_path.string());
  for (const auto& [name, component] : manifest.components) {
    inside(folder, component.path);
    for (const auto& [other, program] : component.chips) inside(folder, program);
  }
  const bool picks = chip.has_value() && !manifest.chips().empty();
  if (picks) pick_programs(manifest, *chip, folder.filename().string());
  const std::set<std::string> unused = picks ? manifest.unused_on(*chip) : std::set<std::string>{};
  for (const auto& [name, entry] : manifest.files) {
    // A path that leaves the folder is refused, whoever would use the file.
    if (unused.count(name) != 0) inside(folder, name);
    else check_file(folder, name, entry);
  }
  Sha256 digest;
  digest.update(text.data(), text.size());
  return Bundle(folder, std::move(manifest), digest.hex(), picks ? chip : std::nullopt);
}

const Component& Bundle::component(const std::string& name) const {
  const auto found = manifest_.components.find(name);
  if (found == manifest_.components.end()) {
    std::vector<std::string> known;
    for (const auto& [other, component] : manifest_.components) known.push_back(other);
    throw Error(ErrorKind::bad_input, folder_.filename().string() + " has no component '" + name + "'; it has " + joined(known));
  }
  return found->second;
}

}  // namespace s2p
