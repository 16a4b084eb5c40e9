#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace s2p {

/// `BUNDLE --name value ... --flag` of the command-line tools.
class Arguments {
 public:
  /// Throws Error(bad_input) for an unknown option, a missing value or anything but one bundle.
  Arguments(int count, char** values, const std::vector<std::string>& options, const std::vector<std::string>& flags);

  const std::string& bundle() const { return bundle_; }
  bool flag(const std::string& name) const { return options_.count(name) != 0; }
  std::optional<std::string> text(const std::string& name) const;
  /// Throws Error(bad_input) unless the value is a whole number in [minimum, 2**63).
  std::optional<std::int64_t> integer(const std::string& name, std::int64_t minimum) const;
  /// A whole number in [0, 2**64). Throws Error(bad_input).
  std::optional<std::uint64_t> seed(const std::string& name) const;
  /// A finite number, not negative. Throws Error(bad_input).
  std::optional<double> number(const std::string& name) const;
  /// Width and height of `512x768`. Throws Error(bad_input).
  std::optional<std::pair<std::int64_t, std::int64_t>> size(const std::string& name) const;

 private:
  std::string bundle_;
  std::map<std::string, std::string> options_;
};

/// Runs a tool and turns what it throws into one line on stderr and an exit status (0, 1 failed check, 2 bad input).
int run_tool(const char* usage, int count, char** values, const std::function<void(int, char**)>& tool);

}  // namespace s2p
