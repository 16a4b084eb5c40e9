#include "s2p/affinity.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <set>
#include <sstream>

#include "s2p/error.h"

namespace s2p {
namespace {

int parse_core(const std::string& text) {
  bool digits = !text.empty() && text.size() <= 4;
  for (const char c : text) digits = digits && std::isdigit(static_cast<unsigned char>(c)) != 0;
  if (!digits || std::stoi(text) >= CPU_SETSIZE) {
    throw Error(ErrorKind::bad_input, "'" + text + "' is not a core; give cores as 4-7 or 0,2");
  }
  return std::stoi(text);
}

}  // namespace

std::vector<int> parse_cores(const std::string& text) {
  std::vector<int> cores;
  std::istringstream parts(text + ",");
  std::string part;
  while (std::getline(parts, part, ',')) {
    const std::size_t dash = part.find('-');
    const int first = parse_core(part.substr(0, dash));
    const int last = dash == std::string::npos ? first : parse_core(part.substr(dash + 1));
    if (last < first) throw Error(ErrorKind::bad_input, "'" + part + "' runs backwards; give cores as 4-7 or 0,2");
    for (int core = first; core <= last; ++core) cores.push_back(core);
  }
  return cores;
}

void pin_to_cores(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    throw Error(ErrorKind::bad_input, std::string("cannot run on these cores (") + std::strerror(errno) + "); choose others with --cores");
  }
}

std::optional<std::vector<int>> pin_to_named_cores(const std::optional<std::string>& list) {
  if (!list) return std::nullopt;
  std::vector<int> cores = parse_cores(*list);
  pin_to_cores(cores);
  return cores;
}

std::int64_t default_threads(const std::optional<std::vector<int>>& cores) {
  if (cores) return static_cast<std::int64_t>(std::set<int>(cores->begin(), cores->end()).size());
  return std::max<std::int64_t>(1, sysconf(_SC_NPROCESSORS_CONF) / 2);
}

}  // namespace s2p
