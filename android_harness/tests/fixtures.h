#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "s2p/error.h"
#include "s2p/sha256.h"

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

/// Removes, truncates or flips a bit of a file of a bundle.
inline void make_edit(const fs::path& bundle, const std::string& action, const std::string& name) {
  const auto path = bundle / name;
  std::string content = read_text(path);
  if (action == "remove") {
    fs::remove(path);
  } else if (action == "truncate") {
    write_text(path, content.substr(0, 3));
  } else {
    content.back() = static_cast<char>(content.back() ^ 1);
    write_text(path, content);
  }
}

/// Makes an opened copy of a fixture one whose programs are compiled for chips: `CHIP/NAME.pte` of each, and a file beside them that
/// only another runtime takes.
inline void compile_for(const fs::path& bundle, const std::vector<std::string>& chips) {
  auto manifest = read_json(bundle / "manifest.json");
  const auto write = [&](const std::string& name, const std::string& text) {
    fs::create_directories((bundle / name).parent_path());
    write_text(bundle / name, text);
    manifest["files"][name] = {{"sha256", sha256_file(bundle / name)}, {"bytes", text.size()}};
  };
  for (auto& [name, component] : manifest["components"].items()) {
    const std::string old = component["path"];
    fs::remove(bundle / old);
    manifest["files"].erase(old);
    for (const std::string& chip : chips) {
      component["chips"][chip] = chip + "/" + name + ".pte";
      write(component["chips"][chip], name + " of " + chip);
      write(chip + "/onnxruntime/" + name + ".bin", "a context of " + chip);
    }
    component["path"] = component["chips"][chips.front()];
  }
  write_text(bundle / "manifest.json", manifest.dump());
}

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

/// What the Error that `action` throws says, or nothing.
template <typename Action>
std::string message_thrown(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
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
