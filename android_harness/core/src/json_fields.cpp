#include "s2p/json_fields.h"

#include <algorithm>
#include <cmath>

#include "s2p/error.h"

namespace s2p {

void invalid(const std::string& path, const std::string& problem) {
  throw Error(ErrorKind::invalid, (path.empty() ? "value" : path) + ": " + problem);
}

double finite_number(const Json& value, const std::string& path) {
  if (!value.is_number()) invalid(path, "not a number");
  const double number = value.get<double>();
  if (!std::isfinite(number)) invalid(path, "not a finite number");
  return number;
}

std::int64_t whole_number(const Json& value, const std::string& path, std::int64_t minimum, std::int64_t maximum) {
  if (!value.is_number_integer()) invalid(path, "not a whole number");
  const bool too_large =
      value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()};
  if (too_large || value.get<std::int64_t>() > maximum) invalid(path, "above " + std::to_string(maximum));
  if (value.get<std::int64_t>() < minimum) invalid(path, "below " + std::to_string(minimum));
  return value.get<std::int64_t>();
}

Fields::Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object.is_object()) invalid(path_, "not an object");
}

std::string Fields::path_of(std::string_view name) const {
  return path_.empty() ? std::string(name) : path_ + "." + std::string(name);
}

const Json& Fields::required(const std::string& name) {
  seen_.insert(name);
  const auto found = object_.find(name);
  if (found == object_.end()) invalid(path_of(name), "missing");
  return *found;
}

bool Fields::is_null(const std::string& name) { return required(name).is_null(); }

std::string Fields::text(const std::string& name) {
  const Json& value = required(name);
  if (!value.is_string()) invalid(path_of(name), "not text");
  return value.get<std::string>();
}

std::string Fields::choice(const std::string& name, const std::vector<std::string_view>& choices) {
  const std::string value = text(name);
  if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
    std::string known;
    for (const std::string_view choice : choices) known += (known.empty() ? "" : ", ") + std::string(choice);
    invalid(path_of(name), "not one of " + known);
  }
  return value;
}

bool Fields::boolean(const std::string& name) {
  const Json& value = required(name);
  if (!value.is_boolean()) invalid(path_of(name), "not true or false");
  return value.get<bool>();
}

double Fields::number(const std::string& name) { return finite_number(required(name), path_of(name)); }

double Fields::positive(const std::string& name) {
  const double value = number(name);
  if (!(value > 0)) invalid(path_of(name), "not above 0");
  return value;
}

std::int64_t Fields::integer(const std::string& name, std::int64_t minimum, std::int64_t maximum) {
  return whole_number(required(name), path_of(name), minimum, maximum);
}

std::uint64_t Fields::unsigned_integer(const std::string& name) {
  const Json& value = required(name);
  if (!value.is_number_unsigned()) invalid(path_of(name), "not a whole number in [0, 2**64)");
  return value.get<std::uint64_t>();
}

std::optional<std::int64_t> Fields::integer_or_null(const std::string& name) {
  if (is_null(name)) return std::nullopt;
  return integer(name, std::numeric_limits<std::int64_t>::min());
}

const Json& Fields::array(const std::string& name) {
  const Json& value = required(name);
  if (!value.is_array()) invalid(path_of(name), "not a list");
  return value;
}

Fields Fields::object(const std::string& name) { return Fields(required(name), path_of(name)); }

std::string Fields::target(const std::string& name) {
  const std::string value = text(name);
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  const bool plain = std::all_of(value.begin(), value.end(),
                                 [&](char c) { return is_letter(c) || (c >= '0' && c <= '9') || c == '-'; });
  if (value.empty() || !is_letter(value.front()) || !plain) invalid(path_of(name), "not a name of a target");
  return value;
}

std::string Fields::sha256(const std::string& name) {
  const std::string value = text(name);
  const bool hexadecimal = std::all_of(value.begin(), value.end(),
                                       [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (value.size() != 64 || !hexadecimal) invalid(path_of(name), "not a SHA-256 in lower-case hexadecimal");
  return value;
}

void Fields::finish() const {
  for (const auto& [name, value] : object_.items()) {
    if (seen_.count(name) == 0) invalid(path_of(name), "unknown field");
  }
}

}  // namespace s2p
