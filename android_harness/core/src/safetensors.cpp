#include "s2p/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>

#include "s2p/error.h"
#include "s2p/json_fields.h"

namespace s2p {
namespace {

// The reference implementation's limit on the header.
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::uint64_t kLengthBytes = 8;

const std::map<std::string, std::uint64_t>& dtype_bytes() {
  static const std::map<std::string, std::uint64_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2},
      {"F16", 2},  {"BF16", 2}, {"I32", 4}, {"U32", 4},     {"F32", 4},     {"I64", 8}, {"U64", 8}, {"F64", 8}};
  return sizes;
}

[[noreturn]] void fail(const std::string& file, const std::string& reason) {
  throw Error(ErrorKind::bad_tensors, file + " is not a complete safetensors file (" + reason + "); get it from its author again");
}

/// Product of the dimensions, or nothing when it leaves 64 bits.
std::optional<std::uint64_t> product(const std::vector<std::int64_t>& shape) {
  std::uint64_t total = 1;
  for (const std::int64_t dimension : shape) {
    const auto factor = static_cast<std::uint64_t>(dimension);
    if (factor != 0 && total > std::numeric_limits<std::uint64_t>::max() / factor) return std::nullopt;
    total *= factor;
  }
  return total;
}

void check_metadata(const Json& metadata, const std::string& file) {
  if (!metadata.is_object()) fail(file, "__metadata__ is not an object");
  for (const auto& [name, value] : metadata.items()) {
    if (!value.is_string()) fail(file, "__metadata__ holds something else than text");
  }
}

}  // namespace

std::size_t element_count(const std::vector<std::int64_t>& shape) {
  const auto total = product(shape);
  if (!total || *total > std::numeric_limits<std::size_t>::max()) throw std::overflow_error("tensor too large");
  return static_cast<std::size_t>(*total);
}

TensorFile::TensorFile(const std::filesystem::path& path) : file_name_(path.filename().string()), file_(path) {
  if (file_.size() < kLengthBytes) fail(file_name_, "shorter than its header length");
  std::uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | file_.data()[i];
  if (header_bytes > kMaxHeaderBytes || header_bytes > file_.size() - kLengthBytes) fail(file_name_, "header too long");

  const auto* text = reinterpret_cast<const char*>(file_.data()) + kLengthBytes;
  Json header;
  try {
    header = Json::parse(text, text + header_bytes);
  } catch (const Json::exception&) {
    fail(file_name_, "header is not JSON");
  }
  if (!header.is_object()) fail(file_name_, "header is not an object");

  const std::uint64_t data_start = kLengthBytes + header_bytes;
  const std::uint64_t data_bytes = file_.size() - data_start;
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      check_metadata(value, file_name_);
      continue;
    }
    try {
      Fields fields(value, name);
      Entry entry;
      entry.dtype = fields.text("dtype");
      for (const Json& dimension : fields.array("shape")) entry.shape.push_back(whole_number(dimension, name, 0, kMax));
      const Json& offsets = fields.array("data_offsets");
      fields.finish();
      if (offsets.size() != 2) invalid(name, "not two offsets");
      const auto begin = static_cast<std::uint64_t>(whole_number(offsets[0], name, 0, kMax));
      const auto end = static_cast<std::uint64_t>(whole_number(offsets[1], name, 0, kMax));
      const auto size = dtype_bytes().find(entry.dtype);
      if (size == dtype_bytes().end()) invalid(name, "unknown dtype");
      const auto count = product(entry.shape);
      if (end < begin || end > data_bytes) invalid(name, "offsets out of the file");
      // Comparing by division: the product of count and size could wrap around.
      if (!count || (end - begin) % size->second != 0 || (end - begin) / size->second != *count) {
        invalid(name, "offsets do not fit the shape");
      }
      entry.begin = data_start + begin;
      entry.end = data_start + end;
      entries_.emplace(name, std::move(entry));
    } catch (const Error& error) {
      fail(file_name_, error.what());
    }
  }

  std::vector<std::pair<std::uint64_t, std::uint64_t>> extents;
  for (const auto& [name, entry] : entries_) extents.emplace_back(entry.begin, entry.end);
  std::sort(extents.begin(), extents.end());
  std::uint64_t position = data_start;
  for (const auto& [begin, end] : extents) {
    if (begin != position) fail(file_name_, "tensors overlap or leave a gap");
    position = end;
  }
  if (position != file_.size()) fail(file_name_, "data left over after the last tensor");
}

std::vector<std::string> TensorFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

const TensorFile::Entry& TensorFile::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    throw Error(ErrorKind::bad_tensors, file_name_ + " has no tensor " + name + "; get the bundle from its author again");
  }
  return found->second;
}

const std::vector<std::int64_t>& TensorFile::shape(const std::string& name) const { return entry(name).shape; }

template <typename T>
std::vector<T> TensorFile::copy(const std::string& name, const char* dtype) const {
  const Entry& found = entry(name);
  if (found.dtype != dtype) {
    throw Error(ErrorKind::bad_tensors, "tensor " + name + " of " + file_name_ + " has dtype " + found.dtype + " instead of " +
                                            dtype + "; get the bundle from its author again");
  }
  std::vector<T> values((found.end - found.begin) / sizeof(T));
  // memcpy, because the data need not be aligned; safetensors is little-endian like every target of this program.
  if (!values.empty()) std::memcpy(values.data(), file_.data() + found.begin, values.size() * sizeof(T));
  return values;
}

std::vector<float> TensorFile::floats(const std::string& name) const { return copy<float>(name, "F32"); }

std::vector<std::int32_t> TensorFile::integers(const std::string& name) const { return copy<std::int32_t>(name, "I32"); }

}  // namespace s2p
