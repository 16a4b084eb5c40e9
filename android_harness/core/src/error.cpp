#include "s2p/error.h"

#include <algorithm>

namespace s2p {
namespace {

std::string one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char character) { return character < 0x20 || character == 0x7f; }, ' ');
  return text;
}

}  // namespace

Error::Error(ErrorKind kind, const std::string& message) : std::runtime_error(one_line(message)), kind_(kind) {}

std::string_view kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::not_found: return "not_found";
    case ErrorKind::not_json: return "not_json";
    case ErrorKind::wrong_format: return "wrong_format";
    case ErrorKind::bad_version: return "bad_version";
    case ErrorKind::future_version: return "future_version";
    case ErrorKind::invalid: return "invalid";
    case ErrorKind::outside: return "outside";
    case ErrorKind::missing_file: return "missing_file";
    case ErrorKind::wrong_size: return "wrong_size";
    case ErrorKind::altered: return "altered";
    case ErrorKind::bad_tensors: return "bad_tensors";
    case ErrorKind::bad_tokenizer: return "bad_tokenizer";
    case ErrorKind::wrong_target: return "wrong_target";
    case ErrorKind::bad_input: return "bad_input";
    case ErrorKind::backend: return "backend";
    case ErrorKind::check_failed: return "check_failed";
  }
  return "unknown";
}

}  // namespace s2p
