#include "memory_launch.h"

#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "s2p/error.h"

extern char** environ;

namespace s2p {

std::optional<Memory> launch_for_memory(int count, char** values, const std::filesystem::path& scratch) {
  std::vector<std::string> words(values, values + count);
  for (const char* word : {"--memory-only", "--out"}) words.emplace_back(word);
  words.push_back(scratch.string());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  std::error_code ignored;
  pid_t child = 0;
  if (posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ) != 0) return std::nullopt;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  std::optional<Memory> memory;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    std::ifstream stream(scratch, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    const nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
    if (value.is_object()) memory = Memory::read(value);
  }
  std::filesystem::remove(scratch, ignored);
  return memory;
}

void end_with_parent() { prctl(PR_SET_PDEATHSIG, SIGKILL); }

}  // namespace s2p
