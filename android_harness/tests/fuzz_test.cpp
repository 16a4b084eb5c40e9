#include <algorithm>
#include <array>
#include <cstdlib>
#include <new>
#include <random>
#include <tuple>

#include "fixtures.h"
#include "s2p/manifest.h"
#include "s2p/ppm.h"
#include "s2p/safetensors.h"
#include "s2p/tokenizer.h"

// Mutated files must be read or refused with an Error, nothing else: no crash, no other exception, no endless work. Run
// under sanitizers (scripts/test.sh sanitize) this also shows that no byte outside of a file is touched. No single piece of memory is
// larger than four times the file: whoever believes a length in a file asks for more.

namespace {

/// The largest piece of memory that this thread asked for since it was set to 0.
thread_local std::size_t largest_piece = 0;

void* piece_or_null(std::size_t size) noexcept {
  largest_piece = std::max(largest_piece, size);
  return std::malloc(std::max<std::size_t>(size, 1));
}

void* piece(std::size_t size) {
  void* memory = piece_or_null(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t size) { return piece(size); }
void* operator new[](std::size_t size) { return piece(size); }
// The library's sorting asks in this way. A sanitizer refuses what one side allocated and the other freed.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return piece_or_null(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return piece_or_null(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace s2p {
namespace {

constexpr int kMutationsPerFile = 2500;
// What readers use for themselves, whatever the file is.
constexpr std::size_t kOwnBytes = 64 * 1024;

class Mutator {
 public:
  explicit Mutator(std::uint32_t seed) : random_(seed) {}

  std::string operator()(std::string text) {
    const int edits = 1 + static_cast<int>(below(4));
    for (int edit = 0; edit < edits; ++edit) mutate(text);
    return text;
  }

 private:
  std::size_t below(std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_); }

  void mutate(std::string& text) {
    static const std::array<std::string, 22> tokens = {
        "0", "-1", "1e999", "1e-400", "18446744073709551615", "18446744073709551616", "9223372036854775808", "0.5", "null", "true",
        "{}", "[]", "[[", "\"\"", "\"..\"", ",", "}", "\\u0000", "\\ud800", "\xff", "F32", "data_offsets"};
    if (text.empty()) {
      text = tokens[below(tokens.size())];
      return;
    }
    const std::size_t at = below(text.size());
    switch (below(6)) {
      case 0: text[at] = static_cast<char>(below(256)); break;
      case 1: text[at] = static_cast<char>(text[at] ^ (1 << below(8))); break;
      case 2: text.erase(at, 1 + below(16)); break;
      case 3: text.insert(at, tokens[below(tokens.size())]); break;
      case 4: text.resize(at); break;
      default: replace_value(text, at, tokens[below(tokens.size())]); break;
    }
  }

  /// Replaces the number or word that stands at or after `at`: random bytes alone seldom leave valid JSON.
  static void replace_value(std::string& text, std::size_t at, const std::string& token) {
    const std::size_t begin = text.find_first_of("0123456789-tfn", at);
    if (begin == std::string::npos) return;
    const std::size_t end = std::min(text.find_first_of(",]}: \"", begin), text.size());
    text.replace(begin, end - begin, token);
  }

  std::mt19937 random_;
};

template <typename Read>
void fuzz(const std::string& text, const Read& read) {
  Mutator mutate(20250101);
  int refused = 0;
  for (int i = 0; i < kMutationsPerFile; ++i) {
    const std::string mutated = mutate(text);
    largest_piece = 0;
    try {
      read(mutated);
    } catch (const Error&) {
      ++refused;
    }
    ASSERT_LE(largest_piece, 4 * mutated.size() + kOwnBytes);
  }
  // Both ends of the reader were reached.
  EXPECT_GT(refused, kMutationsPerFile / 4);
}

TEST(Fuzz, Manifests) {
  for (const char* bundle : {"replay.s2pmobile", "ancestral.s2pmobile", "picture.s2pmobile"}) {
    fuzz(testing::read_text(testing::kFixtures / bundle / "manifest.json"),
         [](const std::string& text) { Manifest::parse(text, "manifest.json"); });
  }
}

// Numbers of a manifest that memory would be asked for: refused by name, before anything is.
TEST(Fuzz, ShapesThatNoPhoneCouldHold) {
  const auto manifest = testing::read_json(testing::kFixtures / "ancestral.s2pmobile/manifest.json");
  const auto refusal = [&](const std::string& pointer, const nlohmann::json& value) {
    auto changed = manifest;
    changed[nlohmann::json::json_pointer(pointer)] = value;
    const std::string text = changed.dump();
    largest_piece = 0;
    try {
      Manifest::parse(text, "m");
    } catch (const Error& error) {
      EXPECT_LE(largest_piece, 4 * text.size() + kOwnBytes);
      return std::string(error.what());
    }
    return std::string("none");
  };
  const nlohmann::json vast = {{"channels", 65536},     {"height", 65536},  {"width", 65536}, {"scaling_factor", 1.0},
                               {"shift_factor", 0.0}, {"mean", nullptr}, {"std", nullptr}};
  const std::tuple<const char*, nlohmann::json, const char*> cases[] = {
      {"/tokenizer/max_length", std::int64_t{1} << 40, "tokenizer.max_length: above"},
      {"/latents/height", 100000, "latents.height: above"},
      {"/latents", vast, "latents.channels: too many latents"},
      {"/components/unet/inputs/0/shape", {2147483647, 2147483647, 4}, "inputs.0.shape: too large"},
      {"/components/unet/inputs/0/shape", {1, 1, 1, 1, 1, 1, 1, 1, 1}, "inputs.0.shape: too large"},
      {"/tokenizer/bos_id", -1, "tokenizer.bos_id: below 0"}};
  for (const auto& [pointer, value, message] : cases) {
    EXPECT_NE(refusal(pointer, value).find(message), std::string::npos) << pointer << ": " << refusal(pointer, value);
  }
}

TEST(Fuzz, TensorFiles) {
  const testing::TemporaryFolder folder;
  const auto path = folder.path() / "x.safetensors";
  fuzz(testing::read_text(testing::kFixtures / "noise.safetensors"), [&](const std::string& text) {
    testing::write_text(path, text);
    const TensorFile file(path);
    for (const std::string& name : file.names()) {
      file.shape(name);
      file.floats(name);
    }
  });
}

TEST(Fuzz, Pictures) {
  // Most of the file is its header, which is where a reader can go wrong.
  fuzz("P6\n# a comment\n5 3\n255\n" + std::string(45, 'x'), [](const std::string& text) { parse_ppm(text, "a.ppm", 5, 3); });
}

TEST(Fuzz, Vocabularies) {
  const auto folder = testing::kFixtures / "replay.s2pmobile/tokenizer";
  const std::string merges = testing::read_text(folder / "merges.txt");
  const TokenizerSpec spec{"", "", 16, 522, 523, 523, 523, {{"<cat>", 524, false, true, true, true, true}}};
  fuzz(testing::read_text(folder / "vocab.json"),
       [&](const std::string& text) { ClipTokenizer::parse(text, merges, spec).encode("a blue <CAT> cat, \xf0\x9f\x98\x80!"); });
}

TEST(Fuzz, MergesAndPrompts) {
  const auto folder = testing::kFixtures / "replay.s2pmobile/tokenizer";
  const std::string vocab = testing::read_text(folder / "vocab.json");
  const TokenizerSpec spec{"", "", 16, 522, 523, 523, 523, {{"<cat>", 524, false, true, true, true, true}}};
  fuzz(testing::read_text(folder / "merges.txt"), [&](const std::string& text) { ClipTokenizer::parse(vocab, text, spec).encode(text); });
}

}  // namespace
}  // namespace s2p
