#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "s2p/manifest.h"

namespace s2p {

/// A stretch of a text: normalized, unless it is a token that is not.
struct TextPiece {
  std::u32string text;
  std::optional<std::int32_t> id;  ///< of the added token that it is; absent: words
};

/// What is cut out of a text before the rest is split into words, and words that stand for several tokens: step by step
/// s2p_runtime.added_tokens.
class AddedTokens {
 public:
  explicit AddedTokens(const std::vector<AddedToken>& tokens);

  /// A text cut into added tokens and what lies between them.
  std::vector<TextPiece> pieces(std::u32string_view text) const;

  /// A text with every word of several vectors written out: `<a>` becomes `<a> <a>_1 <a>_2`.
  std::u32string expand(std::u32string text) const;

 private:
  /// Tokens by their spelling.
  class Spellings {
   public:
    /// The first of two with the same spelling counts.
    void add(const std::u32string& spelling, const AddedToken& token);
    std::vector<TextPiece> cut(std::u32string_view text) const;

   private:
    const AddedToken* longest(std::u32string_view text, std::size_t& length) const;

    std::unordered_map<std::u32string, AddedToken> tokens_;
    std::vector<std::size_t> lengths_;  ///< descending
  };

  Spellings plain_;
  Spellings normal_;
  std::map<std::u32string, std::u32string> several_;
};

}  // namespace s2p
