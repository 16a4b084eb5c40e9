#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace s2p {

/// SHA-256 (FIPS 180-4). The NDK has no crypto library, and a few lines checked against NIST's vectors are less to carry
/// than a library that has to be cross-compiled for every board.
class Sha256 {
 public:
  void update(const void* data, std::size_t size);

  /// Lower-case hexadecimal digest of all that was given. Ends the computation: call it once.
  std::string hex();

 private:
  void block(const std::uint8_t* bytes);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> pending_{};
  std::size_t pending_size_ = 0;
  std::uint64_t total_ = 0;
};

/// Digest of a file's bytes. Throws Error(not_found) when it cannot be read.
std::string sha256_file(const std::filesystem::path& path);

}  // namespace s2p
