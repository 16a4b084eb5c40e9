#include "s2p/unicode.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>

#include "s2p/error.h"

namespace s2p::unicode {
namespace {

struct Range {
  std::uint32_t first;
  std::uint32_t last;
};

struct Mapping {
  std::uint32_t from;
  std::array<std::uint32_t, 4> to;  // ends at the first 0
};

struct ClassRange {
  std::uint32_t first;
  std::uint32_t last;
  std::uint8_t combining_class;
};

struct Composition {
  std::uint32_t first;
  std::uint32_t second;
  std::uint32_t composed;
};

#include "unicode_tables.inc"

// Hangul syllables are composed by arithmetic: Unicode Standard, section 3.12.
constexpr char32_t kHangulSyllable = 0xAC00;
constexpr char32_t kHangulLead = 0x1100;
constexpr char32_t kHangulVowel = 0x1161;
constexpr char32_t kHangulTrail = 0x11A7;
constexpr char32_t kVowels = 21;
constexpr char32_t kTrails = 28;
constexpr char32_t kLeads = 19;

template <typename Table>
auto find_range(const Table& table, char32_t c) -> decltype(&table[0]) {
  const auto after = std::upper_bound(std::begin(table), std::end(table), c,
                                      [](char32_t value, const auto& range) { return value < range.first; });
  if (after == std::begin(table) || c > std::prev(after)->last) return nullptr;
  return &*std::prev(after);
}

template <typename Table>
const Mapping* find_mapping(const Table& table, char32_t c) {
  const auto found = std::lower_bound(std::begin(table), std::end(table), c,
                                      [](const Mapping& mapping, char32_t value) { return mapping.from < value; });
  return found != std::end(table) && found->from == c ? &*found : nullptr;
}

void append(std::u32string& text, const Mapping& mapping) {
  for (const std::uint32_t c : mapping.to) {
    if (c == 0) break;
    text += static_cast<char32_t>(c);
  }
}

std::uint8_t combining_class(char32_t c) {
  const ClassRange* range = find_range(kCombiningClasses, c);
  return range == nullptr ? 0 : range->combining_class;
}

void decompose(char32_t c, std::u32string& out) {
  if (c >= kHangulSyllable && c < kHangulSyllable + kLeads * kVowels * kTrails) {
    const char32_t index = c - kHangulSyllable;
    out += kHangulLead + index / (kVowels * kTrails);
    out += kHangulVowel + index % (kVowels * kTrails) / kTrails;
    if (index % kTrails != 0) out += kHangulTrail + index % kTrails;
  } else if (const Mapping* mapping = find_mapping(kDecompositions, c)) {
    append(out, *mapping);
  } else {
    out += c;
  }
}

/// The composition of a pair, or 0.
char32_t compose_pair(char32_t first, char32_t second) {
  if (first >= kHangulLead && first < kHangulLead + kLeads && second >= kHangulVowel && second < kHangulVowel + kVowels) {
    return kHangulSyllable + ((first - kHangulLead) * kVowels + (second - kHangulVowel)) * kTrails;
  }
  const bool open_syllable = first >= kHangulSyllable && first < kHangulSyllable + kLeads * kVowels * kTrails &&
                             (first - kHangulSyllable) % kTrails == 0;
  if (open_syllable && second > kHangulTrail && second < kHangulTrail + kTrails) return first + (second - kHangulTrail);
  const auto found = std::lower_bound(std::begin(kCompositions), std::end(kCompositions), std::make_pair(first, second),
                                      [](const Composition& row, const std::pair<char32_t, char32_t>& pair) {
                                        return std::pair<char32_t, char32_t>(row.first, row.second) < pair;
                                      });
  const bool hit = found != std::end(kCompositions) && found->first == first && found->second == second;
  return hit ? static_cast<char32_t>(found->composed) : 0;
}

[[noreturn]] void not_utf8() { throw Error(ErrorKind::bad_input, "the text is not valid UTF-8; give it in UTF-8"); }

}  // namespace

std::u32string decode(std::string_view text) {
  std::u32string characters;
  characters.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<std::uint8_t>(text[i]);
    if (lead < 0x80) {
      characters += static_cast<char32_t>(lead);
      ++i;
      continue;
    }
    const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || length > text.size() - i) not_utf8();
    char32_t c = lead & (0x7Fu >> length);
    for (std::size_t k = 1; k < length; ++k) {
      const auto byte = static_cast<std::uint8_t>(text[i + k]);
      if ((byte & 0xC0) != 0x80) not_utf8();
      c = c << 6 | (byte & 0x3F);
    }
    const bool overlong = (length == 3 && c < 0x800) || (length == 4 && c < 0x10000);
    if (overlong || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) not_utf8();
    characters += c;
    i += length;
  }
  return characters;
}

std::string encode(std::u32string_view text) {
  std::string bytes;
  for (const char32_t c : text) {
    if (c < 0x80) {
      bytes += static_cast<char>(c);
    } else if (c < 0x800) {
      bytes += static_cast<char>(0xC0 | c >> 6);
      bytes += static_cast<char>(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
      bytes += static_cast<char>(0xE0 | c >> 12);
      bytes += static_cast<char>(0x80 | (c >> 6 & 0x3F));
      bytes += static_cast<char>(0x80 | (c & 0x3F));
    } else {
      bytes += static_cast<char>(0xF0 | c >> 18);
      bytes += static_cast<char>(0x80 | (c >> 12 & 0x3F));
      bytes += static_cast<char>(0x80 | (c >> 6 & 0x3F));
      bytes += static_cast<char>(0x80 | (c & 0x3F));
    }
  }
  return bytes;
}

bool is_white_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool in_word(char32_t c) { return find_range(kInWord, c) != nullptr; }

Kind kind(char32_t c) {
  if (c == U' ') return Kind::space;
  if (find_range(kLetters, c) != nullptr) return Kind::letter;
  return find_range(kNumbers, c) != nullptr ? Kind::number : Kind::other;
}

std::u32string lower(char32_t c) {
  std::u32string lowered;
  if (const Mapping* mapping = find_mapping(kLower, c)) {
    append(lowered, *mapping);
  } else {
    lowered += c;
  }
  return lowered;
}

std::u32string compose(std::u32string_view text) {
  std::u32string decomposed;
  decomposed.reserve(text.size());
  for (const char32_t c : text) decompose(c, decomposed);

  // Canonical ordering: runs of marks (class not 0) are sorted by class, stably.
  for (std::size_t start = 0; start < decomposed.size();) {
    std::size_t end = start;
    while (end < decomposed.size() && combining_class(decomposed[end]) != 0) ++end;
    std::stable_sort(decomposed.begin() + static_cast<std::ptrdiff_t>(start),
                     decomposed.begin() + static_cast<std::ptrdiff_t>(end),
                     [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    start = end + 1;
  }

  std::u32string composed;
  composed.reserve(decomposed.size());
  std::size_t starter = std::u32string::npos;
  std::uint8_t previous_class = 0;
  for (const char32_t c : decomposed) {
    const std::uint8_t current = combining_class(c);
    if (starter != std::u32string::npos) {
      // A mark is blocked from the starter by a mark of its own class or higher between them.
      const bool adjacent = starter + 1 == composed.size();
      const bool blocked = !adjacent && (previous_class == 0 || previous_class >= current);
      const char32_t joined = blocked ? 0 : compose_pair(composed[starter], c);
      if (joined != 0) {
        composed[starter] = joined;
        continue;
      }
    }
    if (current == 0) starter = composed.size();
    previous_class = current;
    composed += c;
  }
  return composed;
}

}  // namespace s2p::unicode
