#include "s2p/tokenizer.h"

#include <algorithm>
#include <array>
#include <limits>
#include <queue>
#include <set>
#include <tuple>

#include "s2p/clip_words.h"
#include "s2p/error.h"
#include "s2p/json_fields.h"
#include "s2p/mapped_file.h"
#include "s2p/unicode.h"

namespace s2p {
namespace {

constexpr const char* kEndOfWord = "</w>";

[[noreturn]] void malformed(const std::string& problem) {
  throw Error(ErrorKind::bad_tokenizer, "tokenizer " + problem + "; get the bundle from its author again");
}

/// GPT-2's spelling of the 256 bytes: printable Latin-1 stands for itself, the others for U+0100 and up, in order.
std::array<std::string, 256> byte_characters() {
  std::array<std::string, 256> spelling;
  char32_t stand_in = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte < 0x7F) || (byte >= 0xA1 && byte < 0xAD) || byte >= 0xAE;
    spelling[byte] = unicode::encode(std::u32string(1, printable ? byte : stand_in));
    if (!printable) ++stand_in;
  }
  return spelling;
}

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

std::string_view view(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

}  // namespace

ClipTokenizer ClipTokenizer::load(const std::filesystem::path& vocab, const std::filesystem::path& merges,
                                  const TokenizerSpec& spec) {
  const MappedFile vocab_file(vocab);
  const MappedFile merges_file(merges);
  return parse(view(vocab_file), view(merges_file), spec);
}

ClipTokenizer ClipTokenizer::parse(std::string_view vocab, std::string_view merges, const TokenizerSpec& spec) {
  ClipTokenizer tokenizer(spec);
  tokenizer.read_vocabulary(vocab);
  tokenizer.check_ids();
  tokenizer.read_merges(merges);
  return tokenizer;
}

void ClipTokenizer::read_vocabulary(std::string_view text) {
  Json document;
  try {
    document = Json::parse(text.begin(), text.end());
  } catch (const Json::exception&) {
    malformed("vocabulary is not readable JSON");
  }
  if (!document.is_object() || document.empty()) malformed("vocabulary is not a JSON object of token: id");
  std::set<std::int32_t> ids;
  for (const auto& [token, value] : document.items()) {
    const bool whole = value.is_number_unsigned() && value.get<std::uint64_t>() <= std::numeric_limits<std::int32_t>::max();
    if (!whole) malformed("vocabulary gives token '" + token + "' an id that is no whole number");
    const auto id = value.get<std::int32_t>();
    if (!ids.insert(id).second) malformed("vocabulary gives two tokens the id " + std::to_string(id));
    vocabulary_.emplace(token, id);
  }
}

void ClipTokenizer::check_ids() const {
  std::set<std::int32_t> known;
  for (const auto& [token, id] : vocabulary_) known.insert(id);
  for (const AddedToken& token : spec_.added_tokens) known.insert(token.id);
  for (const std::int32_t id : {spec_.bos_id, spec_.eos_id, spec_.unk_id, spec_.pad_id}) {
    if (known.count(id) == 0) malformed("vocabulary has no token for id " + std::to_string(id));
  }
}

void ClipTokenizer::read_merges(std::string_view text) {
  std::size_t line_number = 0;
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    std::string_view line = text.substr(start, end - start);
    start = end + 1;
    ++line_number;
    const bool version = line.substr(0, 8) == "#version";
    if (version || line.find_first_not_of(" \t\r\v\f") == std::string_view::npos) continue;
    while (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    const std::size_t space = line.find(' ');
    const bool two = space != std::string_view::npos && space > 0 && space + 1 < line.size() &&
                     line.find(' ', space + 1) == std::string_view::npos;
    if (!two) malformed("merges: line " + std::to_string(line_number) + " is not two tokens and one space");
    add_merge(std::string(line.substr(0, space)), std::string(line.substr(space + 1)), line_number);
  }
}

void ClipTokenizer::add_merge(const std::string& left, const std::string& right, std::size_t line) {
  for (const std::string& token : {left, right, left + right}) {
    if (vocabulary_.count(token) == 0) {
      malformed("merges: line " + std::to_string(line) + " needs a token that is not in the vocabulary");
    }
  }
  merges_[pair_key(vocabulary_.at(left), vocabulary_.at(right))] = {line, vocabulary_.at(left + right)};
}

const ClipTokenizer::Merge* ClipTokenizer::find_merge(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

std::vector<std::int32_t> ClipTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids = ids_of(added_.expand(unicode::decode(text)));
  ids.resize(std::min(ids.size(), spec_.max_length - 2));
  ids.insert(ids.begin(), spec_.bos_id);
  ids.push_back(spec_.eos_id);
  ids.resize(spec_.max_length, spec_.pad_id);
  return ids;
}

std::vector<std::int32_t> ClipTokenizer::tokenize(std::string_view text) const { return ids_of(unicode::decode(text)); }

std::vector<std::int32_t> ClipTokenizer::ids_of(std::u32string_view text) const {
  std::vector<std::int32_t> ids;
  for (const TextPiece& piece : added_.pieces(text)) {
    if (piece.id) {
      ids.push_back(*piece.id);
    } else {
      clip::split_words(piece.text, [&](std::u32string_view word) { append_word(word, ids); });
    }
  }
  return ids;
}

void ClipTokenizer::append_word(std::u32string_view word, std::vector<std::int32_t>& ids) const {
  static const std::array<std::string, 256> spelling = byte_characters();
  const std::string bytes = unicode::encode(word);
  std::vector<std::int32_t> symbols;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string symbol = spelling[static_cast<std::uint8_t>(bytes[i])];
    if (i + 1 == bytes.size()) symbol += kEndOfWord;
    const auto found = vocabulary_.find(symbol);
    symbols.push_back(found == vocabulary_.end() ? spec_.unk_id : found->second);
  }
  join(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

/// Joins neighbours: always the pair that stands first in the merge list and, of equal pairs, the leftmost. Linked list
/// and queue, so that a word of n bytes takes O(n log n).
void ClipTokenizer::join(std::vector<std::int32_t>& ids) const {
  constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
  const std::size_t count = ids.size();
  std::vector<std::size_t> following(count, none);
  std::vector<std::size_t> preceding(count, none);
  std::vector<bool> alive(count, true);
  for (std::size_t i = 0; i + 1 < count; ++i) {
    following[i] = i + 1;
    preceding[i + 1] = i;
  }
  using Candidate = std::tuple<std::size_t, std::size_t, std::int32_t>;  // rank, left, joined id
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto push = [&](std::size_t left) {
    if (left == none || following[left] == none) return;
    if (const Merge* merge = find_merge(ids[left], ids[following[left]])) queue.emplace(merge->rank, left, merge->joined);
  };
  for (std::size_t left = 0; left < count; ++left) push(left);
  while (!queue.empty()) {
    const auto [rank, left, joined] = queue.top();
    queue.pop();
    const std::size_t right = following[left];
    // An entry is stale when one of its two symbols has been joined to another since it was queued.
    if (!alive[left] || right == none) continue;
    const Merge* merge = find_merge(ids[left], ids[right]);
    if (merge == nullptr || merge->rank != rank || merge->joined != joined) continue;
    ids[left] = joined;
    alive[right] = false;
    following[left] = following[right];
    if (following[right] != none) preceding[following[right]] = left;
    push(preceding[left]);
    push(left);
  }
  std::size_t kept = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (alive[i]) ids[kept++] = ids[i];
  }
  ids.resize(kept);
}

}  // namespace s2p
