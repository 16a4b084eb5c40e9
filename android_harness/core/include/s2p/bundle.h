#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "s2p/manifest.h"

namespace s2p {

/// Names in a line, with commas.
std::string joined(const std::vector<std::string>& names);

/// `relative` below `folder`. Throws Error(outside) when it is empty, absolute, holds "..", a backslash or a NUL, or
/// leaves the folder through a link.
std::filesystem::path inside(const std::filesystem::path& folder, const std::string& relative);

/// An opened bundle: every file that is of use here was checked against its SHA-256.
class Bundle {
 public:
  /// Throws Error(not_found) when there is no bundle, what Manifest::parse throws, and Error(outside, missing_file,
  /// wrong_size, altered) for the files.
  ///
  /// `chip` is the device's, as Android's ro.soc.model names it. Of a bundle whose programs are compiled for chips, every component's
  /// path then is that chip's program, and files of other chips need not be there. Throws Error(wrong_target) when it has none for it.
  static Bundle open(const std::filesystem::path& folder, const std::optional<std::string>& chip = std::nullopt);

  const Manifest& manifest() const { return manifest_; }
  /// The chip whose programs are the components' paths; absent: none was given, or the programs run on any.
  const std::optional<std::string>& chip() const { return chip_; }
  const std::filesystem::path& folder() const { return folder_; }

  /// SHA-256 of manifest.json, which pins every other file.
  const std::string& sha256() const { return sha256_; }

  std::filesystem::path path(const std::string& relative) const { return inside(folder_, relative); }

  /// Throws Error(bad_input) when the bundle has no such component.
  const Component& component(const std::string& name) const;

 private:
  Bundle(std::filesystem::path folder, Manifest manifest, std::string sha256, std::optional<std::string> chip)
      : folder_(std::move(folder)), manifest_(std::move(manifest)), sha256_(std::move(sha256)), chip_(std::move(chip)) {}

  std::filesystem::path folder_;
  Manifest manifest_;
  std::string sha256_;
  std::optional<std::string> chip_;
};

}  // namespace s2p
