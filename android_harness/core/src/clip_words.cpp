#include "s2p/clip_words.h"

#include <algorithm>
#include <iterator>

#include "s2p/unicode.h"

namespace s2p::clip {
namespace {

constexpr std::u32string_view kContractions[] = {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"};
constexpr std::u32string_view kLoweredSpecial[] = {U"<|startoftext|>", U"<|endoftext|>"};

bool starts_with(std::u32string_view text, std::u32string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

/// Length of the word at the start of `text`, which does not start with a space.
std::size_t word_length(std::u32string_view text) {
  for (const auto literal : kLoweredSpecial) {
    if (starts_with(text, literal)) return literal.size();
  }
  for (const auto literal : kContractions) {
    if (starts_with(text, literal)) return literal.size();
  }
  const unicode::Kind kind = unicode::kind(text[0]);
  std::size_t end = 1;
  while (kind != unicode::Kind::number && end < text.size() && unicode::kind(text[end]) == kind) ++end;
  return end;
}

}  // namespace

std::u32string normalize(std::u32string_view text) {
  std::u32string normal;
  for (const char32_t c : unicode::compose(text)) {
    if (!unicode::is_white_space(c)) {
      normal += unicode::lower(c);
    } else if (normal.empty() || normal.back() != U' ') {
      normal += U' ';
    }
  }
  return normal;
}

void split_words(std::u32string_view text, const std::function<void(std::u32string_view)>& take) {
  while (!text.empty()) {
    if (text[0] == U' ') {
      text.remove_prefix(1);
      continue;
    }
    const std::size_t length = word_length(text);
    const std::u32string_view word = text.substr(0, length);
    text.remove_prefix(length);
    // A special token in capitals is one match of CLIP's pattern, which the byte-level stage then splits.
    if (std::find(std::begin(kLoweredSpecial), std::end(kLoweredSpecial), word) != std::end(kLoweredSpecial)) {
      take(word.substr(0, 2));
      take(word.substr(2, length - 4));
      take(word.substr(length - 2));
    } else {
      take(word);
    }
  }
}

}  // namespace s2p::clip
