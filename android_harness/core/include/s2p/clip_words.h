#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace s2p::clip {

/// NFC, each run of white space to one space, lower case character by character.
std::u32string normalize(std::u32string_view text);

/// Calls `take` with each word of normalized text: contractions, runs of letters, single digits, runs of anything else but space.
void split_words(std::u32string_view text, const std::function<void(std::u32string_view)>& take);

}  // namespace s2p::clip
