#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "s2p/mapped_file.h"

namespace s2p {

/// Number of elements of `shape`. Throws std::overflow_error when it does not fit, which a checked shape never does.
std::size_t element_count(const std::vector<std::int64_t>& shape);

/// A safetensors file, memory-mapped. Nothing is copied until a tensor is asked for.
class TensorFile {
 public:
  /// Throws Error(not_found) when the file cannot be read, Error(bad_tensors) when it is not a complete safetensors file.
  explicit TensorFile(const std::filesystem::path& path);

  bool contains(const std::string& name) const { return entries_.count(name) != 0; }
  std::vector<std::string> names() const;

  /// Shape of a tensor. Throws Error(bad_tensors) when there is no such tensor.
  const std::vector<std::int64_t>& shape(const std::string& name) const;

  /// A copy of a float32 tensor, C order. Throws Error(bad_tensors) when it is absent or of another dtype.
  std::vector<float> floats(const std::string& name) const;

  /// A copy of an int32 tensor, C order. Throws Error(bad_tensors) when it is absent or of another dtype.
  std::vector<std::int32_t> integers(const std::string& name) const;

 private:
  struct Entry {
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::uint64_t begin;  ///< bytes from the start of the file
    std::uint64_t end;
  };

  const Entry& entry(const std::string& name) const;
  template <typename T>
  std::vector<T> copy(const std::string& name, const char* dtype) const;

  std::string file_name_;
  MappedFile file_;
  std::map<std::string, Entry> entries_;
};

}  // namespace s2p
