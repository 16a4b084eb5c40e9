#include "arguments.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <new>

#include "s2p/error.h"

namespace s2p {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

template <typename T>
T whole(const std::string& name, const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw Error(ErrorKind::bad_input, "--" + name + " '" + text + "' is not a whole number in range; give another");
  }
  return value;
}

}  // namespace

Arguments::Arguments(int count, char** values, const std::vector<std::string>& options, const std::vector<std::string>& flags) {
  for (int i = 1; i < count; ++i) {
    const std::string word = values[i];
    const std::string name = word.substr(0, 2) == "--" ? word.substr(2) : "";
    if (name.empty()) {
      if (!bundle_.empty()) throw Error(ErrorKind::bad_input, "two bundles given, " + bundle_ + " and " + word + "; give one");
      bundle_ = word;
    } else if (contains(flags, name)) {
      options_[name] = "";
    } else if (!contains(options, name)) {
      throw Error(ErrorKind::bad_input, "unknown option " + word + "; see --help");
    } else if (i + 1 == count) {
      throw Error(ErrorKind::bad_input, word + " needs a value; see --help");
    } else {
      options_[name] = values[++i];
    }
  }
  if (bundle_.empty()) throw Error(ErrorKind::bad_input, "no bundle given; see --help");
}

std::optional<std::string> Arguments::text(const std::string& name) const {
  const auto found = options_.find(name);
  return found == options_.end() ? std::nullopt : std::optional<std::string>(found->second);
}

std::optional<std::int64_t> Arguments::integer(const std::string& name, std::int64_t minimum) const {
  const auto given = text(name);
  if (!given) return std::nullopt;
  const auto value = whole<std::int64_t>(name, *given);
  if (value < minimum) {
    throw Error(ErrorKind::bad_input, "--" + name + " " + *given + " is below " + std::to_string(minimum) + "; give another");
  }
  return value;
}

std::optional<std::uint64_t> Arguments::seed(const std::string& name) const {
  const auto given = text(name);
  return given ? std::optional<std::uint64_t>(whole<std::uint64_t>(name, *given)) : std::nullopt;
}

std::optional<double> Arguments::number(const std::string& name) const {
  const auto given = text(name);
  if (!given) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(given->c_str(), &end);
  if (given->empty() || end != given->c_str() + given->size() || !std::isfinite(value) || value < 0) {
    throw Error(ErrorKind::bad_input, "--" + name + " '" + *given + "' is not a number of at least 0; give another");
  }
  return value;
}

std::optional<std::pair<std::int64_t, std::int64_t>> Arguments::size(const std::string& name) const {
  const auto given = text(name);
  if (!given) return std::nullopt;
  std::pair<std::uint32_t, std::uint32_t> size;
  const char* end = given->data() + given->size();
  const auto width = std::from_chars(given->data(), end, size.first);
  const bool has_height = width.ec == std::errc() && width.ptr != end && *width.ptr == 'x';
  const auto height = has_height ? std::from_chars(width.ptr + 1, end, size.second) : width;
  if (!has_height || height.ec != std::errc() || height.ptr != end) {
    throw Error(ErrorKind::bad_input, "--" + name + " '" + *given + "' is no picture size; give width and height in pixels, like 512x768");
  }
  return size;
}

int run_tool(const char* usage, int count, char** values, const std::function<void(int, char**)>& tool) {
  for (int i = 1; i < count; ++i) {
    if (std::string(values[i]) == "--help") {
      std::cout << usage;
      return 0;
    }
  }
  try {
    tool(count, values);
    return 0;
  } catch (const Error& error) {
    std::string line = error.what();
    // File names and manifests are not ours: one message stays one line.
    std::replace_if(line.begin(), line.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
    std::cerr << "error: " << line << "\n";
    return error.exit_status();
  } catch (const std::bad_alloc&) {
    std::cerr << "error: out of memory; close other programs, or use --low-memory with s2p-run\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "; please report this\n";
    return 2;
  }
}

}  // namespace s2p
