#pragma once

#include <filesystem>
#include <optional>

#include "s2p/report.h"

namespace s2p {

/// Starts this program again with its own arguments and `--memory-only --out SCRATCH`, waits, and reads what it wrote. Nothing when it
/// ended early: a process that ran out of memory must not cost the times that are measured already.
std::optional<Memory> launch_for_memory(int count, char** values, const std::filesystem::path& scratch);

/// Ends this process when the one that started it ends, however that happens.
void end_with_parent();

}  // namespace s2p
