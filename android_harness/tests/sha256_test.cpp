#include "s2p/sha256.h"

#include "fixtures.h"

namespace s2p {
namespace {

std::string digest(const std::string& text) {
  Sha256 sha;
  sha.update(text.data(), text.size());
  return sha.hex();
}

// Examples of FIPS 180-4's companion page "SHA Examples" (NIST), one for each way in which the padding can fall.
TEST(Sha256, GivesNistsAnswers) {
  EXPECT_EQ(digest(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(digest("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrst"
                   "nopqrstu"),
            "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
}

TEST(Sha256, DoesNotDependOnHowTheInputIsCut) {
  Sha256 sha;
  const std::string piece(997, 'a');
  std::size_t left = 1'000'000;
  while (left > 0) {
    const std::size_t size = std::min(left, piece.size());
    sha.update(piece.data(), size);
    left -= size;
  }
  EXPECT_EQ(sha.hex(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, HashesFiles) {
  const testing::TemporaryFolder folder;
  testing::write_text(folder.path() / "abc", "abc");
  EXPECT_EQ(sha256_file(folder.path() / "abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(testing::kind_thrown([&] { sha256_file(folder.path() / "none"); }), "not_found");
}

}  // namespace
}  // namespace s2p
