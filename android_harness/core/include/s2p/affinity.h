#pragma once

#include <string>
#include <vector>

namespace s2p {

/// Cores of a list such as "4-7" or "0,2,4-5". Throws Error(bad_input).
std::vector<int> parse_cores(const std::string& text);

/// Keeps this process, and the threads it starts from now on, on these cores. Throws Error(bad_input) when the system
/// refuses, e.g. because a core does not exist.
void pin_to_cores(const std::vector<int>& cores);

}  // namespace s2p
