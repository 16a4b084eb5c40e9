#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace s2p {

/// The system's virtual files (/proc, /sys, /etc) below a root that tests can replace.
class SystemFiles {
 public:
  explicit SystemFiles(std::filesystem::path root = "/") : root_(std::move(root)) {}

  /// The text of a file without trailing white space and NULs; nothing when it cannot be read, which for a phone's sensors
  /// is usual.
  std::optional<std::string> text(const std::string& path) const;

  /// The file as one decimal number.
  std::optional<double> number(const std::string& path) const;

  /// Names in a folder that start with `prefix`, in natural order (zone2 before zone10); empty when there is no folder.
  std::vector<std::string> list(const std::string& folder, const std::string& prefix) const;

 private:
  std::filesystem::path root_;
};

/// Bytes of a "VmHWM:   123 kB" line of a /proc text; nothing when the key is not there.
std::optional<std::int64_t> kilobyte_field(const std::string& text, const std::string& key);

}  // namespace s2p
