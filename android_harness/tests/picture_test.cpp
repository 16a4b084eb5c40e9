#include "s2p/picture.h"

#include "fixtures.h"
#include "s2p/ppm.h"

namespace s2p {
namespace {

using testing::message_thrown;

const std::string kPixels = "abcdefghijklmnopqr";  // of 3 x 2 pixels

Picture parse(const std::string& bytes) { return parse_ppm(bytes, "a.ppm", 3, 2); }

TEST(FromPicture, ReachesBothEndsAndComesBack) {
  Picture picture{256, 1, {}};
  for (int value = 0; value < 256; ++value) picture.rgb.insert(picture.rgb.end(), {static_cast<unsigned char>(value), 0, 255});
  const auto image = from_picture(picture);
  ASSERT_EQ(image.size(), 3u * 256);
  EXPECT_EQ(image[0], -1.0F);
  EXPECT_EQ(image[255], 1.0F);
  EXPECT_EQ(image[128], static_cast<float>(128 * 2 / 255.0 - 1));
  EXPECT_EQ(image[256], -1.0F);     // green
  EXPECT_EQ(image[2 * 256], 1.0F);  // blue
  EXPECT_EQ(to_picture(image, 1, 256).rgb, picture.rgb);
}

TEST(Ppm, IsReadAsOthersWriteIt) {
  for (const char* header : {"P6\n3 2\n255\n", "P6 3 2 255 ", "P6\n# of GIMP\n3 # wide\n2\n255\n", "P6\r\n3\t2\v255\f"}) {
    const Picture picture = parse(header + kPixels);
    EXPECT_EQ(picture.width, 3u);
    EXPECT_EQ(picture.height, 2u);
    EXPECT_EQ(std::string(picture.rgb.begin(), picture.rgb.end()), kPixels);
  }
  // The white space behind the header is one byte: what follows is the picture's, whatever it is.
  EXPECT_EQ(parse("P6\n3 2\n255\n" + std::string("\n#") + kPixels.substr(2)).rgb[1], '#');
}

TEST(Ppm, IsRefusedInOneLineThatSaysHowToMakeOne) {
  const std::string how = "; make one with: magick PICTURE -resize 3x2^ -gravity center -extent 3x2 -depth 8 NAME.ppm";
  const std::string none = "a.ppm is no binary PPM (P6, 8 bits) of 3x2" + how;
  for (const std::string& bytes : std::vector<std::string>{
           "", "P6", "P6\n", "P5\n3 2\n255\n" + kPixels, "P3\n3 2\n255\n" + kPixels, "\x89PNG\r\n", "P63 2 255\n" + kPixels,
           "P6\n3 2\n65535\n" + kPixels, "P6\n3 2\n255", "P6\n3 -2\n255\n" + kPixels, "P6\n99999999999999999999 2\n255\n" + kPixels,
           "P6\n3\n# no end", "P6\n3 2\n255x" + kPixels, "P6\n3 2\n0\n" + kPixels}) {
    EXPECT_EQ(message_thrown([&bytes] { parse(bytes); }), none) << bytes;
  }
  EXPECT_EQ(message_thrown([] { parse("P6\n2 3\n255\n" + kPixels); }), "a.ppm is 2x3, no binary PPM (P6, 8 bits) of 3x2" + how);
  for (const std::string& pixels : {kPixels + "s", kPixels.substr(1), std::string()}) {
    EXPECT_EQ(message_thrown([&pixels] { parse("P6\n3 2\n255\n" + pixels); }),
              "a.ppm has not as many bytes as a binary PPM (P6, 8 bits) of 3x2" + how);
  }
}

TEST(Ppm, IsReadFromAFile) {
  const testing::TemporaryFolder folder;
  const auto path = folder.path() / "a.ppm";
  testing::write_text(path, "P6\n3 2\n255\n" + kPixels);
  EXPECT_EQ(read_ppm(path, 3, 2).rgb.back(), 'r');
  testing::write_text(path, "");
  EXPECT_EQ(testing::kind_thrown([&path] { read_ppm(path, 3, 2); }), "bad_input");
  EXPECT_EQ(testing::kind_thrown([] { read_ppm("/nowhere/a.ppm", 3, 2); }), "not_found");
}

}  // namespace
}  // namespace s2p
