#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace s2p {

/// What went wrong, in the words of tests/fixtures/malformed/index.json where a file is to blame.
enum class ErrorKind {
  not_found,       ///< no bundle, no file at the given place
  not_json,        ///< not a JSON document
  wrong_format,    ///< a JSON document of another format
  bad_version,     ///< no valid version number
  future_version,  ///< a version newer than this program
  invalid,         ///< a field is missing, unknown, of the wrong type or out of range
  outside,         ///< a path leaves its folder
  missing_file,    ///< a listed file is not there
  wrong_size,      ///< a listed file has another size
  altered,         ///< a listed file has another SHA-256
  bad_tensors,     ///< not a complete safetensors file, or a tensor of it is missing or has another shape or type
  bad_tokenizer,   ///< vocabulary and merges are malformed or do not fit together
  wrong_target,    ///< a bundle whose programs are written for something else than the engine runs
  bad_input,       ///< what the user gave: an option, a prompt, a seed
  backend,         ///< the engine refused a program or failed in it
  check_failed,    ///< the input was understood, but a check on it did not hold
};

/// The kind as it is spelled in tests/fixtures/malformed/index.json.
std::string_view kind_name(ErrorKind kind);

/// An error for the person at the terminal: one line, "what is wrong; what to do".
class Error : public std::runtime_error {
 public:
  /// Names come from files and may hold anything: control characters of the message become spaces.
  Error(ErrorKind kind, const std::string& message);

  ErrorKind kind() const { return kind_; }

  /// 1 for a failed check, 2 for bad input.
  int exit_status() const { return kind_ == ErrorKind::check_failed ? 1 : 2; }

 private:
  ErrorKind kind_;
};

}  // namespace s2p
