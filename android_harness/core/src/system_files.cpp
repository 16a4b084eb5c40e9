#include "s2p/system_files.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <system_error>

namespace s2p {
namespace {

bool natural_less(const std::string& a, const std::string& b) {
  return a.size() != b.size() ? a.size() < b.size() : a < b;
}

}  // namespace

std::optional<std::string> SystemFiles::text(const std::string& path) const {
  std::ifstream stream(root_ / path);
  if (!stream) return std::nullopt;
  std::stringstream content;
  content << stream.rdbuf();
  if (stream.bad()) return std::nullopt;
  std::string value = content.str();
  while (!value.empty() && (value.back() == '\0' || std::isspace(static_cast<unsigned char>(value.back())))) value.pop_back();
  return value.empty() ? std::nullopt : std::optional<std::string>(value);
}

std::optional<double> SystemFiles::number(const std::string& path) const {
  const auto value = text(path);
  if (!value) return std::nullopt;
  char* end = nullptr;
  const double number = std::strtod(value->c_str(), &end);
  return end == value->c_str() + value->size() && std::isfinite(number) ? std::optional<double>(number) : std::nullopt;
}

std::vector<std::string> SystemFiles::list(const std::string& folder, const std::string& prefix) const {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(root_ / folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.compare(0, prefix.size(), prefix) == 0) names.push_back(name);
  }
  std::sort(names.begin(), names.end(), natural_less);
  return names;
}

std::optional<std::int64_t> kilobyte_field(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    if (line.compare(0, key.size() + 1, key + ":") != 0) continue;
    char* end = nullptr;
    const long long kilobytes = std::strtoll(line.c_str() + key.size() + 1, &end, 10);
    if (std::string(end) == " kB") return kilobytes * 1024;
  }
  return std::nullopt;
}

}  // namespace s2p
