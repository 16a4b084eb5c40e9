#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace s2p {

/// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

/// `count` standard normal numbers, C order of whatever shape they fill. Key = seed, low word first; counter =
/// (block, 0, stream, 0); Box-Muller in double, one cast to float. Stream 0 makes the initial latents, stream i + 1 the
/// fresh noise of call i. The same numbers as s2p_runtime.noise.gaussian; see docs/formats.md.
std::vector<float> gaussian(std::uint64_t seed, std::size_t count, std::uint32_t stream = 0);

}  // namespace s2p
