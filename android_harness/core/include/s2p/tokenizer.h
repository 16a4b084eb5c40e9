#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "s2p/added_tokens.h"
#include "s2p/manifest.h"

namespace s2p {

/// The CLIP byte-pair tokenizer, id for id s2p_runtime.tokenizer.ClipTokenizer, which says how it works.
class ClipTokenizer {
 public:
  /// Reads vocab.json and merges.txt. Throws Error(not_found) when one cannot be read and Error(bad_tokenizer) when one is
  /// malformed or the two do not fit together.
  static ClipTokenizer load(const std::filesystem::path& vocab, const std::filesystem::path& merges, const TokenizerSpec& spec);

  /// The same from the files' texts; the names are for messages.
  static ClipTokenizer parse(std::string_view vocab, std::string_view merges, const TokenizerSpec& spec);

  /// Words of several vectors are written out first. bos, at most max_length - 2 tokens of `text`, eos, then pad up to max_length.
  /// Throws Error(bad_input) when `text` is not UTF-8.
  std::vector<std::int32_t> encode(std::string_view text) const;

  /// The ids of `text` alone, neither framed nor cut.
  std::vector<std::int32_t> tokenize(std::string_view text) const;

 private:
  struct Merge {
    std::size_t rank;
    std::int32_t joined;
  };

  explicit ClipTokenizer(const TokenizerSpec& spec) : spec_(spec), added_(spec.added_tokens) {}
  void read_vocabulary(std::string_view text);
  void read_merges(std::string_view text);
  void add_merge(const std::string& left, const std::string& right, std::size_t line);
  void check_ids() const;
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;
  std::vector<std::int32_t> ids_of(std::u32string_view text) const;
  void append_word(std::u32string_view word, std::vector<std::int32_t>& ids) const;
  void join(std::vector<std::int32_t>& ids) const;

  TokenizerSpec spec_;
  AddedTokens added_;
  std::unordered_map<std::string, std::int32_t> vocabulary_;
  std::unordered_map<std::uint64_t, Merge> merges_;
};

}  // namespace s2p
