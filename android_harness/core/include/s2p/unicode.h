#pragma once

#include <string>
#include <string_view>

namespace s2p::unicode {

enum class Kind { space, letter, number, other };

/// Decodes UTF-8. Throws Error(bad_input) for bytes that are not UTF-8, encoded surrogates included.
std::u32string decode(std::string_view text);

std::string encode(std::u32string_view text);

/// Unicode White_Space.
bool is_white_space(char32_t c);

/// Letter (general category L), number (N), U+0020, or anything else.
Kind kind(char32_t c);

/// Whether a character belongs to a word for tokens that stand alone: alphabetic, marks, decimal numbers, connecting punctuation and
/// the two joiners.
bool in_word(char32_t c);

/// Lower case of one character, without context; up to three characters.
std::u32string lower(char32_t c);

/// Normalization form C (Unicode Standard Annex 15). Like the reference tokenizer it does not know the combining marks
/// that came after Unicode 10.
std::u32string compose(std::u32string_view text);

}  // namespace s2p::unicode
