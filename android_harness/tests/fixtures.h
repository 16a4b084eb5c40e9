#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "s2p/error.h"

namespace s2p::testing {

namespace fs = std::filesystem;

inline const fs::path kFixtures = S2P_FIXTURES;
inline const fs::path kTrees = S2P_TREES;

inline std::string read_text(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline nlohmann::json read_json(const fs::path& path) { return nlohmann::json::parse(read_text(path)); }

/// A folder that lives as long as the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "s2p-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// The kind of the Error that `action` throws, or "none".
template <typename Action>
std::string kind_thrown(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return std::string(kind_name(error.kind()));
  }
  return "none";
}

/// Whether one of a malformed fixture's right kinds was thrown.
template <typename Action>
void expect_kind(const nlohmann::json& fixture, const Action& action) {
  const std::string kind = kind_thrown(action);
  bool right = false;
  for (const auto& accepted : fixture["kinds"]) right = right || accepted == kind;
  EXPECT_TRUE(right) << fixture["case"] << " gave " << kind << " instead of " << fixture["kinds"];
}

}  // namespace s2p::testing
