#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace s2p {

/// Cores of a list such as "4-7" or "0,2,4-5". Throws Error(bad_input).
std::vector<int> parse_cores(const std::string& text);

/// Keeps this process, and the threads it starts from now on, on these cores. Throws Error(bad_input) when the system
/// refuses, e.g. because a core does not exist.
void pin_to_cores(const std::vector<int>& cores);

/// The same for a list as text, where there is one. Returns the cores.
std::optional<std::vector<int>> pin_to_named_cores(const std::optional<std::string>& list);

/// Threads where nobody names a number: one for each core that was named, else half the processors, as ExecuTorch's own library for
/// Android has it. One thread on a slow core makes all others wait: all processors of a phone may be ten times slower than half.
std::int64_t default_threads(const std::optional<std::vector<int>>& cores);

}  // namespace s2p
