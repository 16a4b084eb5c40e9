#include "s2p/ppm.h"

#include <optional>

#include "s2p/error.h"
#include "s2p/mapped_file.h"

namespace s2p {
namespace {

// Far above any picture, and far below what would overflow as a count of bytes.
constexpr std::size_t kMaxNumber = 1 << 20;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/// The numbers of a header, one after the other.
class Header {
 public:
  explicit Header(std::string_view rest) : rest_(rest) {}

  /// White space and comments, then digits; nothing where it is otherwise.
  std::optional<std::size_t> number() {
    if (!skip_space()) return std::nullopt;
    std::optional<std::size_t> value;
    while (!rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9') {
      value = 10 * value.value_or(0) + static_cast<std::size_t>(rest_.front() - '0');
      if (*value > kMaxNumber) return std::nullopt;
      rest_.remove_prefix(1);
    }
    return value;
  }

  /// The bytes behind the one white space that ends the header; nothing where that is missing.
  std::optional<std::string_view> data() const {
    if (rest_.empty() || !is_space(rest_.front())) return std::nullopt;
    return rest_.substr(1);
  }

 private:
  bool skip_space() {
    const std::size_t before = rest_.size();
    while (!rest_.empty() && (is_space(rest_.front()) || rest_.front() == '#')) {
      // A comment goes to the end of its line.
      const std::size_t end = rest_.front() == '#' ? rest_.find('\n') : 0;
      rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
    }
    return rest_.size() != before;
  }

  std::string_view rest_;
};

}  // namespace

Picture parse_ppm(std::string_view bytes, const std::string& source, std::size_t width, std::size_t height) {
  const std::string size = std::to_string(width) + "x" + std::to_string(height);
  const auto refuse = [&](const std::string& problem) {
    return Error(ErrorKind::bad_input, source + " " + problem + "; make one with: magick PICTURE -resize " + size +
                                           "^ -gravity center -extent " + size + " -depth 8 NAME.ppm");
  };
  const std::string wanted = "binary PPM (P6, 8 bits) of " + size;
  if (bytes.substr(0, 2) != "P6") throw refuse("is no " + wanted);
  Header header(bytes.substr(2));
  const auto columns = header.number();
  const auto rows = columns ? header.number() : std::nullopt;
  const auto maximum = rows ? header.number() : std::nullopt;
  const auto data = maximum ? header.data() : std::nullopt;
  if (!data || *maximum != 255) throw refuse("is no " + wanted);
  if (*columns != width || *rows != height) {
    throw refuse("is " + std::to_string(*columns) + "x" + std::to_string(*rows) + ", no " + wanted);
  }
  if (data->size() != 3 * width * height) throw refuse("has not as many bytes as a " + wanted);
  return {width, height, {data->begin(), data->end()}};
}

Picture read_ppm(const std::filesystem::path& path, std::size_t width, std::size_t height) {
  const MappedFile file(path);
  return parse_ppm({reinterpret_cast<const char*>(file.data()), file.size()}, path.string(), width, height);
}

}  // namespace s2p
