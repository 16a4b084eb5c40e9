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

/// The component as the method of a picture size takes and gives it. The manifest's shapes are those of the first size. Text encoder and
/// time table know no size and stay as they are.
Component at_size(Component component, const PictureSize& size);

/// Throws Error(bad_input) when components do not take and give the tensors of docs/formats.md.
void check_components(const Bundle& bundle);

}  // namespace s2p
