#include "s2p/added_tokens.h"

#include <algorithm>
#include <set>

#include "s2p/clip_words.h"
#include "s2p/unicode.h"

namespace s2p {
namespace {

std::u32string number(std::size_t value) { return unicode::decode(std::to_string(value)); }

/// Words that stand for several tokens -> the words of all of them; `<a>_1` follows `<a>`.
std::map<std::u32string, std::u32string> several_tokens(const std::vector<AddedToken>& tokens) {
  std::set<std::u32string> known;
  for (const AddedToken& token : tokens) known.insert(unicode::decode(token.content));
  std::map<std::u32string, std::u32string> written;
  for (const std::u32string& first : known) {
    std::u32string words = first;
    std::size_t count = 1;
    for (; known.count(first + U"_" + number(count)) != 0; ++count) words += U" " + first + U"_" + number(count);
    if (count > 1) written[first] = words;
  }
  return written;
}

void replace_all(std::u32string& text, const std::u32string& from, const std::u32string& to) {
  for (std::size_t place = 0; (place = text.find(from, place)) != std::u32string::npos; place += to.size()) {
    text.replace(place, from.size(), to);
  }
}

}  // namespace

AddedTokens::AddedTokens(const std::vector<AddedToken>& tokens) : several_(several_tokens(tokens)) {
  // Special ones first: of two with one spelling the first counts.
  for (const bool special : {true, false}) {
    for (const AddedToken& token : tokens) {
      if (token.special != special) continue;
      const std::u32string content = unicode::decode(token.content);
      (token.normalized ? normal_ : plain_).add(token.normalized ? clip::normalize(content) : content, token);
    }
  }
}

std::vector<TextPiece> AddedTokens::pieces(std::u32string_view text) const {
  std::vector<TextPiece> all;
  for (TextPiece& plain : plain_.cut(text)) {
    if (plain.id) {
      all.push_back(std::move(plain));
    } else {
      for (TextPiece& piece : normal_.cut(clip::normalize(plain.text))) all.push_back(std::move(piece));
    }
  }
  return all;
}

std::u32string AddedTokens::expand(std::u32string text) const {
  if (several_.empty()) return text;
  std::vector<std::u32string> found;
  for (const TextPiece& piece : pieces(text)) {
    if (piece.id && std::find(found.begin(), found.end(), piece.text) == found.end()) found.push_back(piece.text);
  }
  for (const std::u32string& word : found) {
    if (const auto written = several_.find(word); written != several_.end()) replace_all(text, word, written->second);
  }
  return text;
}

void AddedTokens::Spellings::add(const std::u32string& spelling, const AddedToken& token) {
  if (!tokens_.emplace(spelling, token).second) return;
  const auto place = std::lower_bound(lengths_.begin(), lengths_.end(), spelling.size(), std::greater<>());
  if (place == lengths_.end() || *place != spelling.size()) lengths_.insert(place, spelling.size());
}

const AddedToken* AddedTokens::Spellings::longest(std::u32string_view text, std::size_t& length) const {
  for (const std::size_t size : lengths_) {
    if (size > text.size()) continue;
    const auto token = tokens_.find(std::u32string(text.substr(0, size)));
    if (token == tokens_.end()) continue;
    length = size;
    return &token->second;
  }
  return nullptr;
}

std::vector<TextPiece> AddedTokens::Spellings::cut(std::u32string_view text) const {
  std::vector<TextPiece> pieces;
  std::size_t done = 0;
  for (std::size_t place = 0; place < text.size() && !tokens_.empty();) {
    std::size_t length = 0;
    const AddedToken* token = longest(text.substr(place), length);
    if (token == nullptr) {
      ++place;
      continue;
    }
    std::size_t start = place;
    std::size_t stop = place + length;
    place = stop;
    const bool touched = (start > 0 && unicode::in_word(text[start - 1])) || (stop < text.size() && unicode::in_word(text[stop]));
    if (token->single_word && touched) continue;
    if (token->lstrip) {
      while (start > 0 && unicode::is_white_space(text[start - 1])) --start;
      // White space that the token before took stays with it.
      start = std::max(start, done);
    }
    if (token->rstrip) {
      while (stop < text.size() && unicode::is_white_space(text[stop])) ++stop;
    }
    if (done < start) pieces.push_back({std::u32string(text.substr(done, start - done)), std::nullopt});
    pieces.push_back({std::u32string(text.substr(start, stop - start)), token->id});
    done = stop;
  }
  if (done < text.size()) pieces.push_back({std::u32string(text.substr(done)), std::nullopt});
  return pieces;
}

}  // namespace s2p
