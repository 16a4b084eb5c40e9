#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace s2p {

/// A file mapped read-only into memory: its pages are clean, so the system can drop them under memory pressure.
class MappedFile {
 public:
  /// Throws Error(not_found) when the file cannot be opened or mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// Null for an empty file.
  const std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace s2p
