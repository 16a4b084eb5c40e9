#include "s2p/png.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>

#include "s2p/error.h"

namespace s2p {
namespace {

constexpr std::size_t kMaxStoredBlock = 65535;

std::uint32_t crc32(const std::string& bytes) {
  std::uint32_t crc = 0xFFFFFFFF;
  for (const char byte : bytes) {
    crc ^= static_cast<std::uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320 : 0);
  }
  return ~crc;
}

std::uint32_t adler32(const std::string& bytes) {
  std::uint32_t a = 1;
  std::uint32_t b = 0;
  for (const char byte : bytes) {
    a = (a + static_cast<std::uint8_t>(byte)) % 65521;
    b = (b + a) % 65521;
  }
  return b << 16 | a;
}

std::string big_endian(std::uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}

std::string chunk(const std::string& kind, const std::string& body) {
  return big_endian(static_cast<std::uint32_t>(body.size())) + kind + body + big_endian(crc32(kind + body));
}

/// zlib stream (RFC 1950) of stored blocks (RFC 1951, 3.2.4).
std::string stored(const std::string& raw) {
  std::string stream = "\x78\x01";
  for (std::size_t start = 0; start < raw.size(); start += kMaxStoredBlock) {
    const std::size_t size = std::min(kMaxStoredBlock, raw.size() - start);
    const bool last = start + size == raw.size();
    stream += static_cast<char>(last);
    for (const std::size_t field : {size, ~size}) {
      stream += static_cast<char>(field & 0xFF);
      stream += static_cast<char>(field >> 8 & 0xFF);
    }
    stream.append(raw, start, size);
  }
  return stream + big_endian(adler32(raw));
}

}  // namespace

void write_png(const std::filesystem::path& path, const Picture& picture) {
  std::string raw;
  raw.reserve(picture.height * (1 + 3 * picture.width));
  for (std::size_t row = 0; row < picture.height; ++row) {
    raw += '\0';
    raw.append(reinterpret_cast<const char*>(picture.rgb.data()) + row * 3 * picture.width, 3 * picture.width);
  }
  std::string header = big_endian(static_cast<std::uint32_t>(picture.width)) +
                       big_endian(static_cast<std::uint32_t>(picture.height));
  header += {8, 2, 0, 0, 0};  // 8 bits, RGB, deflate, filter method 0, not interlaced

  std::ofstream stream(path, std::ios::binary);
  stream << "\x89PNG\r\n\x1a\n" << chunk("IHDR", header) << chunk("IDAT", stored(raw)) << chunk("IEND", "");
  stream.close();
  if (!stream) throw Error(ErrorKind::bad_input, "cannot write " + path.string() + "; choose another place with --out");
}

}  // namespace s2p
