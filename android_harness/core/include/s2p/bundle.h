#pragma once

#include <filesystem>
#include <string>

#include "s2p/manifest.h"

namespace s2p {

/// `relative` below `folder`. Throws Error(outside) when it is empty, absolute, holds "..", a backslash or a NUL, or
/// leaves the folder through a link.
std::filesystem::path inside(const std::filesystem::path& folder, const std::string& relative);

/// An opened bundle: every file was checked against its SHA-256.
class Bundle {
 public:
  /// Throws Error(not_found) when there is no bundle, what Manifest::parse throws, and Error(outside, missing_file,
  /// wrong_size, altered) for the files.
  static Bundle open(const std::filesystem::path& folder);

  const Manifest& manifest() const { return manifest_; }
  const std::filesystem::path& folder() const { return folder_; }

  /// SHA-256 of manifest.json, which pins every other file.
  const std::string& sha256() const { return sha256_; }

  std::filesystem::path path(const std::string& relative) const { return inside(folder_, relative); }

  /// Throws Error(bad_input) when the bundle has no such component.
  const Component& component(const std::string& name) const;

 private:
  Bundle(std::filesystem::path folder, Manifest manifest, std::string sha256)
      : folder_(std::move(folder)), manifest_(std::move(manifest)), sha256_(std::move(sha256)) {}

  std::filesystem::path folder_;
  Manifest manifest_;
  std::string sha256_;
};

}  // namespace s2p
