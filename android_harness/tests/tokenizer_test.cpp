#include "s2p/tokenizer.h"

#include "fixtures.h"
#include "s2p/unicode.h"

namespace s2p {
namespace {

using testing::kind_thrown;

const testing::fs::path kTokenizer = S2P_DEMO_TOKENIZER;

AddedToken special(const std::string& content, std::int32_t id) { return {content, id, true, false, false, false, false}; }

// Ids that transformers' CLIPTokenizer gave; tests/fixtures/make_tokenizer_cases.py made them.
TEST(ClipTokenizer, GivesTheIdsOfTransformers) {
  const auto cases = testing::read_json(testing::kFixtures / "tokenizer_cases.json");
  const auto vocabulary = testing::read_json(kTokenizer / "vocab.json");
  ASSERT_GT(cases.size(), 500u);
  const std::size_t length = cases[0]["ids"].size();
  const std::int32_t bos = vocabulary["<|startoftext|>"];
  const std::int32_t eos = vocabulary["<|endoftext|>"];
  const TokenizerSpec spec{"", "", length, bos, eos, eos, eos, {special("<|startoftext|>", bos), special("<|endoftext|>", eos)}};
  const auto tokenizer = ClipTokenizer::load(kTokenizer / "vocab.json", kTokenizer / "merges.txt", spec);
  for (const auto& fixture : cases) {
    EXPECT_EQ(tokenizer.encode(fixture["text"].get<std::string>()), fixture["ids"].get<std::vector<std::int32_t>>())
        << fixture["text"];
  }
}

// Added tokens of every kind; the ids are transformers' for what diffusers makes of each text.
TEST(ClipTokenizer, CutsAddedTokensOutAsTransformersDoes) {
  const auto groups = testing::read_json(testing::kFixtures / "added_token_cases.json");
  const auto vocabulary = testing::read_json(kTokenizer / "vocab.json");
  ASSERT_EQ(groups.size(), 3u);
  for (const auto& group : groups) {
    const std::int32_t eos = vocabulary["<|endoftext|>"];
    TokenizerSpec spec{"", "", group["cases"][0]["ids"].size(), vocabulary["<|startoftext|>"], eos, eos, group["pad_id"], {}};
    for (const auto& token : group["added_tokens"]) {
      spec.added_tokens.push_back({token["content"], token["id"], token["special"], token["lstrip"], token["rstrip"], token["single_word"],
                                   token["normalized"]});
    }
    const auto tokenizer = ClipTokenizer::load(kTokenizer / "vocab.json", kTokenizer / "merges.txt", spec);
    ASSERT_GT(group["cases"].size(), 50u);
    for (const auto& fixture : group["cases"]) {
      EXPECT_EQ(tokenizer.encode(fixture["text"].get<std::string>()), fixture["ids"].get<std::vector<std::int32_t>>()) << fixture["text"];
    }
  }
}

// "lower" merges in the order of the list, not from left to right: Sennrich et al.'s example.
TEST(ClipTokenizer, MergesInTheOrderOfTheList) {
  const std::string vocab = R"({"l": 0, "o": 1, "w": 2, "w</w>": 3, "ow</w>": 4, "lo": 5, "low</w>": 6, "B": 7, "E": 8})";
  const TokenizerSpec spec{"", "", 6, 7, 8, 8, 8, {}};
  EXPECT_EQ(ClipTokenizer::parse(vocab, "#version: 0.2\no w</w>\nl o\n", spec).tokenize("low"), (std::vector<std::int32_t>{0, 4}));
  EXPECT_EQ(ClipTokenizer::parse(vocab, "l o\no w</w>\nlo w</w>\r\n", spec).tokenize("low LOW"), (std::vector<std::int32_t>{6, 6}));
}

TEST(ClipTokenizer, FramesCutsAndPads) {
  const TokenizerSpec spec{"", "", 4, 1, 2, 2, 3, {special("<pad>", 3)}};
  const auto tokenizer = ClipTokenizer::parse(R"({"a</w>": 0, "<s>": 1, "</s>": 2, "<pad>": 3})", "", spec);
  EXPECT_EQ(tokenizer.encode("a"), (std::vector<std::int32_t>{1, 0, 2, 3}));
  EXPECT_EQ(tokenizer.encode("a a a"), (std::vector<std::int32_t>{1, 0, 0, 2}));
  EXPECT_EQ(tokenizer.encode("a<pad>z"), (std::vector<std::int32_t>{1, 0, 3, 2}));
}

TEST(ClipTokenizer, RefusesFilesThatDoNotFit) {
  const TokenizerSpec spec{"", "", 4, 0, 1, 1, 1, {}};
  const std::string vocab = R"({"a": 0, "b": 1, "ab": 2})";
  EXPECT_EQ(kind_thrown([&] { ClipTokenizer::parse(vocab, "a b\n", spec); }), "none");
  const std::pair<std::string, std::string> broken[] = {
      {"[]", ""}, {"{}", ""}, {"{", ""}, {R"({"a": 0, "b": "1"})", ""}, {R"({"a": 0, "b": -1})", ""},
      {R"({"a": 0, "b": 1.0})", ""}, {R"({"a": 0, "b": 1, "c": 1})", ""}, {R"({"a": 0})", ""},
      {vocab, "a c\n"}, {vocab, "b a\n"}, {vocab, "a\n"}, {vocab, "a b c\n"}, {vocab, " a\n"}, {vocab, "a  b\n"}};
  for (const auto& [vocabulary, merges] : broken) {
    EXPECT_EQ(kind_thrown([&, v = vocabulary, m = merges] { ClipTokenizer::parse(v, m, spec); }), "bad_tokenizer") << vocabulary << merges;
  }
}

TEST(Utf8, RefusesWhatIsNotUtf8) {
  for (const char* text : {"\xff", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf0\x80\x80\x80", "\x80", "a\xc3("}) {
    EXPECT_EQ(kind_thrown([&] { unicode::decode(text); }), "bad_input");
  }
  const std::string all = "a\xc3\xa9\xe7\x8c\xab\xf0\x9f\x98\x80";
  EXPECT_EQ(unicode::decode(all), U"a\u00e9\u732b\U0001F600");
  EXPECT_EQ(unicode::encode(unicode::decode(all)), all);
}

// \w of Unicode Technical Standard 18; a superscript is a number that is not decimal.
TEST(InWord, IsLettersMarksDecimalNumbersConnectorsAndJoiners) {
  for (const char32_t c : {U'a', U'_', U'7', U'\u00e9', U'\u0301', U'\u200d', U'\u24b6', U'\u732b', U'\u2160', U'\U000113e1'}) {
    EXPECT_TRUE(unicode::in_word(c)) << static_cast<std::uint32_t>(c);
  }
  for (const char32_t c : {U' ', U'-', U'\u00b2', U'\u200b', U'<', U'\U0001F600', U'\U0001d2c0'}) {
    EXPECT_FALSE(unicode::in_word(c)) << static_cast<std::uint32_t>(c);
  }
}

// Cases of Unicode's NormalizationTest.txt, parts 0 and 1.
TEST(Nfc, GivesTheAnswersOfTheUnicodeStandard) {
  const std::pair<std::u32string, std::u32string> cases[] = {
      {U"\u1E0A", U"\u1E0A"}, {U"\u0044\u0307", U"\u1E0A"}, {U"\u1E0A\u0323", U"\u1E0C\u0307"}, {U"\u0044\u0307\u0323", U"\u1E0C\u0307"},
      {U"\u0044\u031B\u0307", U"\u1E0A\u031B"}, {U"\u1E14\u0304", U"\u1E14\u0304"}, {U"\u0045\u0304\u0300", U"\u1E14"},
      {U"\u0340", U"\u0300"}, {U"\u0958", U"\u0915\u093C"}, {U"\u212B", U"\u00C5"}, {U"\u1100\u1161\u11A8", U"\uAC01"},
      {U"\uAC00\u11A8", U"\uAC01"}, {U"\u1100\uAC00\u11A8", U"\u1100\uAC01"}, {U"\u2126", U"\u03A9"}, {U"\uFB1D", U"\u05D9\u05B4"},
      {U"\u05B8\u05B9\u05B1\u0591\u05C3\u05B0\u05AC\u059F", U"\u05B1\u05B8\u05B9\u0591\u05C3\u05B0\u05AC\u059F"}};
  for (const auto& [text, composed] : cases) EXPECT_EQ(unicode::compose(text), composed) << unicode::encode(text);
}

}  // namespace
}  // namespace s2p
