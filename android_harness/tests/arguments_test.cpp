#include "arguments.h"

#include "fixtures.h"

namespace s2p {
namespace {

Arguments parse(std::vector<std::string> words) {
  words.insert(words.begin(), "tool");
  std::vector<char*> values;
  for (std::string& word : words) values.push_back(word.data());
  return Arguments(static_cast<int>(values.size()), values.data(), {"seed", "runs", "cooldown", "size"}, {"replay"});
}

TEST(Arguments, AreReadInAnyOrder) {
  const Arguments arguments = parse({"--seed", "18446744073709551615", "bundle", "--replay", "--cooldown", "0.5"});
  EXPECT_EQ(arguments.bundle(), "bundle");
  EXPECT_EQ(arguments.seed("seed"), std::optional<std::uint64_t>(18446744073709551615u));
  EXPECT_EQ(arguments.number("cooldown"), std::optional<double>(0.5));
  EXPECT_TRUE(arguments.flag("replay"));
  EXPECT_FALSE(arguments.integer("runs", 1).has_value());
}

TEST(Arguments, NameAPictureSize) {
  const auto size = parse({"a", "--size", "512x768"}).size("size");
  ASSERT_TRUE(size.has_value());
  EXPECT_EQ(size->first, 512);
  EXPECT_EQ(size->second, 768);
  EXPECT_FALSE(parse({"a"}).size("size").has_value());
  for (const char* text : {"", "big", "32", "32x", "x32", "32x32x3", "-8x8", "8x-8", " 8x8", "8 x8", "8X8", "99999999999x8"}) {
    EXPECT_EQ(testing::message_thrown([&] { parse({"a", "--size", text}).size("size"); }),
              std::string("--size '") + text + "' is no picture size; give width and height in pixels, like 512x768");
  }
}

TEST(Arguments, AreRefusedWithOneLine) {
  const std::vector<std::vector<std::string>> wrong = {{}, {"a", "b"}, {"a", "--none"}, {"a", "--seed"}};
  for (const auto& words : wrong) EXPECT_EQ(testing::kind_thrown([&] { parse(words); }), "bad_input");
  EXPECT_EQ(testing::kind_thrown([] { parse({"a", "--runs", "0"}).integer("runs", 1); }), "bad_input");
  EXPECT_EQ(testing::kind_thrown([] { parse({"a", "--runs", "2x"}).integer("runs", 1); }), "bad_input");
  EXPECT_EQ(testing::kind_thrown([] { parse({"a", "--seed", "18446744073709551616"}).seed("seed"); }), "bad_input");
  EXPECT_EQ(testing::kind_thrown([] { parse({"a", "--seed", "-1"}).seed("seed"); }), "bad_input");
  EXPECT_EQ(testing::kind_thrown([] { parse({"a", "--cooldown", "nan"}).number("cooldown"); }), "bad_input");
  EXPECT_EQ(testing::kind_thrown([] { parse({"a", "--cooldown", "-1"}).number("cooldown"); }), "bad_input");
}

TEST(RunTool, TurnsErrorsIntoExitStatus) {
  char name[] = "tool";
  char* values[] = {name};
  EXPECT_EQ(run_tool("", 1, values, [](int, char**) {}), 0);
  EXPECT_EQ(run_tool("", 1, values, [](int, char**) { throw Error(ErrorKind::check_failed, "x"); }), 1);
  EXPECT_EQ(run_tool("", 1, values, [](int, char**) { throw Error(ErrorKind::bad_input, "x\ny"); }), 2);
  EXPECT_EQ(run_tool("", 1, values, [](int, char**) { throw std::bad_alloc(); }), 2);
}

}  // namespace
}  // namespace s2p
