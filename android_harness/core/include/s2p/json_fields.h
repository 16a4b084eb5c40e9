#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace s2p {

using Json = nlohmann::json;

/// Reads the fields of one JSON object strictly: a field that is missing, of the wrong type, out of range or not finite
/// is an Error(invalid) that names its dotted path, and so is a field that nobody asked for (`finish`). No field has a
/// default: what there is not is null or empty.
class Fields {
 public:
  /// `object` must outlive this. `path` is where it stands in the document, "" for the document itself.
  Fields(const Json& object, std::string path);

  const Json& required(const std::string& name);
  /// Whether the object has the field. Few may be absent.
  bool has(const std::string& name) const { return object_.contains(name); }
  /// Whether the field, which must be there, is null.
  bool is_null(const std::string& name);

  std::string text(const std::string& name);
  /// One of `choices`.
  std::string choice(const std::string& name, const std::vector<std::string_view>& choices);
  bool boolean(const std::string& name);
  double number(const std::string& name);
  double positive(const std::string& name);
  std::int64_t integer(const std::string& name, std::int64_t minimum,
                       std::int64_t maximum = std::numeric_limits<std::int64_t>::max());
  std::uint64_t unsigned_integer(const std::string& name);
  /// An integer or null.
  std::optional<std::int64_t> integer_or_null(const std::string& name);
  const Json& array(const std::string& name);
  Fields object(const std::string& name);
  /// A name of a target: a small letter, then small letters, digits and dashes.
  std::string target(const std::string& name);
  /// Exactly 64 lower-case hexadecimal digits.
  std::string sha256(const std::string& name);

  /// Throws when the object has a field that was not asked for.
  void finish() const;

  std::string path_of(std::string_view name) const;

 private:
  const Json& object_;
  std::string path_;
  std::set<std::string> seen_;
};

[[noreturn]] void invalid(const std::string& path, const std::string& problem);

/// `value` as a finite double, or Error(invalid) naming `path`.
double finite_number(const Json& value, const std::string& path);

/// `value` as an integer in [minimum, maximum], or Error(invalid) naming `path`. 2.0 and true are not integers.
std::int64_t whole_number(const Json& value, const std::string& path, std::int64_t minimum, std::int64_t maximum);

}  // namespace s2p
