#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>
#include <new>
#include <random>
#include <tuple>

#include "fixtures.h"
#include "s2p/bundle.h"
#include "s2p/manifest.h"
#include "s2p/ppm.h"
#include "s2p/safetensors.h"
#include "s2p/tokenizer.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/allocator_interface.h>
#define S2P_TELLS_OF_ALL_MEMORY
#endif
#endif

// Mutated files must be read or refused with an Error, nothing else: no crash, no other exception, no endless work. Run
// under sanitizers (scripts/test.sh sanitize) this also shows that no byte outside of a file is touched. No single piece of memory is
// larger than four times the file: whoever believes a length in a file asks for more. Kotlin unpacks archives: none is read here.

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

#ifdef S2P_TELLS_OF_ALL_MEMORY
// The sanitizer tells of every piece, so that those count, too, that are not asked for by `new`.
void note(const volatile void*, std::size_t size) { largest_piece = std::max(largest_piece, size); }
void forget(const volatile void*) {}
[[maybe_unused]] const int installed = __sanitizer_install_malloc_and_free_hooks(note, forget);
#endif

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

// Of each kind of file.
constexpr int kMutations = 10'000;
// What readers use for themselves, whatever the file is: buffers of streams, and messages.
constexpr std::size_t kOwnBytes = 16 * 1024;
// Files with so much padding leave room for that within four times their size: nothing is added to the bound.
constexpr std::size_t kPaddingBytes = 128 * 1024;
constexpr int kPaddedMutations = 100;

using testing::fs::path;
using testing::kind_thrown;

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

/// Reads a text that was made from the source of this number.
using Read = std::function<void(const std::string&, std::size_t)>;
/// Makes a file larger without making it wrong.
using Pad = std::function<std::string(const std::string&)>;

std::string with_blanks(const std::string& text) { return text + std::string(kPaddingBytes, ' '); }

/// Whether a text is refused. No piece of memory is larger than four times the text and `own` bytes.
bool refuses(const std::string& text, std::size_t source, std::size_t own, const Read& read) {
  bool refused = false;
  largest_piece = 0;
  try {
    read(text, source);
  } catch (const Error&) {
    refused = true;
  }
  const std::size_t largest = largest_piece;
  EXPECT_LE(largest, 4 * text.size() + own);
  return refused;
}

void fuzz(const std::vector<std::string>& sources, const Read& read, const Pad& pad = with_blanks) {
  for (std::size_t source = 0; source < sources.size(); ++source) {
    EXPECT_FALSE(refuses(sources[source], source, kOwnBytes, read));
    EXPECT_FALSE(refuses(pad(sources[source]), source, 0, read));
  }
  Mutator mutate(20250101);
  int refused = 0;
  for (int i = 0; i < kMutations; ++i) {
    const std::size_t source = i % sources.size();
    refused += refuses(mutate(sources[source]), source, kOwnBytes, read);
  }
  // Both ends of the reader were reached.
  EXPECT_GT(refused, kMutations / 4);
  EXPECT_LT(refused, kMutations);
  for (int i = 0; i < kPaddedMutations; ++i) {
    const std::size_t source = i % sources.size();
    refuses(pad(mutate(sources[source])), source, 0, read);
  }
}

/// Writes a fixture's bundle into `folder`, small: one layer, one call where no pictures start between, and each file holds its own
/// name. Its manifest.
std::string write_small(const std::string& fixture, const path& folder) {
  auto manifest = testing::read_json(testing::kFixtures / fixture / "manifest.json");
  auto& layers = manifest["quantization"]["layers"];
  layers.erase(layers.begin() + 1, layers.end());
  auto& calls = manifest["plan"]["calls"];
  if (!manifest.contains("image_starts")) calls.erase(calls.begin() + 1, calls.end());
  for (auto& [name, entry] : manifest["files"].items()) {
    testing::fs::create_directories((folder / name).parent_path());
    testing::write_text(folder / name, name);
    entry = {{"sha256", sha256_file(folder / name)}, {"bytes", name.size()}};
  }
  testing::write_text(folder / "manifest.json", manifest.dump());
  return manifest.dump();
}

/// Every path that a manifest names.
std::vector<std::string> paths_of(const Manifest& manifest) {
  std::vector<std::string> paths = {manifest.tokenizer.vocab, manifest.tokenizer.merges};
  for (const auto& [name, component] : manifest.components) paths.push_back(component.path);
  for (const auto& [name, entry] : manifest.files) paths.push_back(name);
  for (const GoldenRun& run : manifest.golden) paths.push_back(run.path);
  for (const PictureSize& size : manifest.sizes) {
    if (size.check) paths.push_back(*size.check);
  }
  return paths;
}

/// Whether what the system finds at `relative`, links followed, is below `folder`, or nothing is there.
bool stays_in(const path& folder, const std::string& relative) {
  // To the system a name ends at its first NUL.
  char* real = realpath((folder / relative).c_str(), nullptr);
  const std::string found = real == nullptr ? "" : real;
  std::free(real);
  const std::string home = testing::fs::canonical(folder).string();
  return found.empty() || found == home || found.compare(0, home.size() + 1, home + "/") == 0;
}

TEST(Fuzz, Manifests) {
  const testing::TemporaryFolder scratch;
  std::vector<std::string> sources;
  std::vector<path> bundles;
  for (const char* name : {"replay.s2pmobile", "ancestral.s2pmobile", "picture.s2pmobile"}) {
    bundles.push_back(scratch.path() / name);
    sources.push_back(write_small(name, bundles.back()));
  }
  fuzz(sources, [&](const std::string& text, std::size_t source) {
    testing::write_text(bundles[source] / "manifest.json", text);
    const Bundle bundle = Bundle::open(bundles[source]);
    for (const std::string& name : paths_of(bundle.manifest())) EXPECT_TRUE(stays_in(bundle.folder(), name)) << name;
  });
}

/// A manifest in which a file has another name, wherever it is named.
std::string renamed(std::string manifest, const std::string& name, const std::string& other) {
  const std::string old = Json(name).dump();
  const std::string changed = Json(other).dump(-1, ' ', false, Json::error_handler_t::replace);
  for (std::size_t at = 0; (at = manifest.find(old, at)) != std::string::npos; at += changed.size()) {
    manifest.replace(at, old.size(), changed);
  }
  return manifest;
}

// The bundle's files lie beside it once more: no checksum stops a name that leads there.
TEST(Fuzz, NamesOfFiles) {
  const testing::TemporaryFolder scratch;
  const path root = testing::fs::canonical(scratch.path());
  const path folder = root / "a.s2pmobile";
  const std::string manifest = write_small("ancestral.s2pmobile", folder);
  testing::fs::copy(folder, root / "outside", testing::fs::copy_options::recursive);
  testing::fs::create_directory_symlink("../outside", folder / "link");
  testing::fs::create_directory_symlink("golden", folder / "inner");
  const std::vector<std::string> steps = {
      "..", "..", "outside", "link", "inner", "golden", ".", "", "a.s2pmobile", "/link", "..\\", "\\", "%2e%2e", "...",
      std::string("\0", 1), root.string()};
  std::vector<std::string> names;
  for (const auto& [name, entry] : Manifest::parse(manifest, "m").files) names.push_back(name);

  std::mt19937 random(20250102);
  Mutator mutate(20250103);
  int taken = 0;
  int escapes = 0;
  int opened = 0;
  for (int i = 0; i < kMutations; ++i) {
    const std::string& name = names[random() % names.size()];
    std::string other;
    for (std::size_t left = random() % 4; left > 0; --left) other += steps[random() % steps.size()] + "/";
    other += name;
    if (random() % 4 == 0) other = mutate(other);
    const bool stays = stays_in(folder, other);
    const std::string kind = kind_thrown([&] { inside(folder, other); });
    EXPECT_TRUE(kind == "outside" || (stays && kind == "none")) << other << ": " << kind;
    taken += kind == "none";
    escapes += !stays;
    if (i % 10 != 0) continue;
    testing::write_text(folder / "manifest.json", renamed(manifest, name, other));
    const std::string whole = kind_thrown([&] { Bundle::open(folder); });
    EXPECT_TRUE(kind == "none" || whole != "none") << other;
    EXPECT_TRUE(stays || whole == "outside") << other << ": " << whole;
    opened += whole == "none";
  }
  EXPECT_GT(taken, kMutations / 10);
  EXPECT_GT(escapes, kMutations / 100);
  EXPECT_GT(opened, kMutations / 10 / 20);
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
  const auto file_path = folder.path() / "x.safetensors";
  const Read read = [&](const std::string& text, std::size_t) {
    testing::write_text(file_path, text);
    const TensorFile file(file_path);
    for (const std::string& name : file.names()) {
      file.shape(name);
      file.floats(name);
    }
  };
  const std::string header =
      R"({"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"y":{"dtype":"F32","shape":[],"data_offsets":[24,28]}})";
  const std::string file = static_cast<char>(header.size()) + std::string(7, '\0') + header + std::string(28, '\x3f');
  fuzz({file}, read, [](const std::string& text) {
    std::uint64_t length = 0;
    for (std::size_t i = 8; i-- > 0 && text.size() > 8;) length = length << 8 | static_cast<unsigned char>(text[i]);
    if (text.size() <= 8 || length > text.size() - 8) return with_blanks(text);
    // Blanks may end the header.
    std::string padded = text;
    padded.insert(8 + length, std::string(kPaddingBytes, ' '));
    length += kPaddingBytes;
    for (int i = 0; i < 8; ++i) padded[i] = static_cast<char>(length >> (8 * i));
    return padded;
  });
}

TEST(Fuzz, Pictures) {
  // Most of the file is its header, which is where a reader can go wrong.
  const std::string picture = "P6\n# a comment\n5 3\n255\n" + std::string(45, 'x');
  fuzz({picture}, [](const std::string& text, std::size_t) { parse_ppm(text, "a.ppm", 5, 3); },
       [](const std::string& text) { return text.substr(0, 2) + "\n#" + std::string(kPaddingBytes, '.') + text.substr(std::min<std::size_t>(2, text.size())); });
}

const TokenizerSpec kWords{"", "", 16, 522, 523, 523, 523, {{"<cat>", 524, false, true, true, true, true}}};

/// The fixture's vocabulary, small: what its merges need, and the marks around a text.
std::string few_words() {
  const auto all = testing::read_json(testing::kFixtures / "replay.s2pmobile/tokenizer/vocab.json");
  auto few = nlohmann::json::object();
  for (const auto& [token, id] : all.items()) {
    const std::string letters = token.substr(0, token.find("</w>"));
    const bool word = std::all_of(letters.begin(), letters.end(), [](char c) { return c >= 'a' && c <= 'z'; });
    if (word || id.get<int>() >= kWords.bos_id) few[token] = id;
  }
  return few.dump();
}

std::string merges() { return testing::read_text(testing::kFixtures / "replay.s2pmobile/tokenizer/merges.txt"); }

TEST(Fuzz, Vocabularies) {
  fuzz({few_words()}, [joins = merges()](const std::string& text, std::size_t) {
    ClipTokenizer::parse(text, joins, kWords).encode("a blue <CAT> cat, \xf0\x9f\x98\x80!");
  });
}

TEST(Fuzz, MergesAndPrompts) {
  const std::string words = few_words();
  fuzz({merges()}, [&](const std::string& text, std::size_t) { ClipTokenizer::parse(words, text, kWords).encode(text.substr(0, 1000)); },
       [](const std::string& text) { return text + std::string(kPaddingBytes, '\n'); });
}

}  // namespace
}  // namespace s2p
