#pragma once

#include "s2p/bundle.h"

namespace s2p {

constexpr const char* kTextEncoder = "text_encoder";
constexpr const char* kTimeTable = "time_table";
constexpr const char* kUnet = "unet";
constexpr const char* kVaeDecoder = "vae_decoder";
constexpr const char* kVaeEncoder = "vae_encoder";

/// The U-Net as one component, whether it is one program or several. Tensors between programs are float32 here.
Component unet_interface(const Bundle& bundle);

/// Throws Error(bad_input) when components do not take and give the tensors of docs/formats.md.
void check_components(const Bundle& bundle);

}  // namespace s2p
