#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "s2p/image_start.h"
#include "s2p/plan.h"

namespace s2p {

enum class DType { float16, float32, int32, int64 };

/// One input or output of a component.
struct TensorSpec {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
};

/// One program of the bundle. `path` is a file (.pte) or a folder (.mlpackage) inside the bundle.
struct Component {
  std::string path;
  std::string precision;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::string backend;
  /// Processors that the program was written for: neural-engine, gpu or all. Absent: the engine's own choice.
  std::optional<std::string> compute_unit;
  /// Chip to its own file, of a program that is compiled for each; `path` is one of them. Empty: the program runs on any.
  std::map<std::string, std::string> chips;
  /// Not of the manifest: the method that is run, see at_size. Absent: the one that a program has anyway.
  std::optional<std::string> method;
};

struct FileEntry {
  std::string sha256;
  std::uint64_t bytes;
};

/// Latent shape, and vae input = latent * deviation / scaling_factor + shift_factor + mean of the channel.
struct LatentSpec {
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
  double scaling_factor;
  double shift_factor;
  /// Of each channel; none: 0 is added, and the latents are taken as they are.
  std::optional<std::vector<double>> means;
  std::optional<std::vector<double>> deviations;

  std::size_t count() const { return static_cast<std::size_t>(channels * height * width); }

  /// Final latents as the VAE decoder takes them.
  std::vector<float> decoder_input(const std::vector<float>& latents) const;

  /// What a VAE encoder gives, [1, 2 C, H, W], means before log variances -> latents [1, C, H, W]:
  /// (m - shift_factor - mean) / deviation * scaling_factor. The means stand for the distribution; nothing is drawn.
  std::vector<float> encoded(const std::vector<float>& moments) const;
};

/// A token that is cut out of a text before the rest is split into words, see AddedTokens.
struct AddedToken {
  std::string content;
  std::int32_t id;
  bool special;      ///< of two with the same spelling it comes first
  bool lstrip;       ///< white space before it goes with it
  bool rstrip;       ///< white space behind it goes with it
  bool single_word;  ///< it counts only where no letter, mark, digit or underscore touches it
  bool normalized;   ///< it is looked for in normalized text
};

struct TokenizerSpec {
  std::string vocab;
  std::string merges;
  std::size_t max_length;
  std::int32_t bos_id;
  std::int32_t eos_id;
  std::int32_t unk_id;  ///< for a byte that the vocabulary lacks
  std::int32_t pad_id;
  std::vector<AddedToken> added_tokens;
};

/// What a family with two text encoders (SDXL) adds to a prompt: the second encoder's tokenizer, and what makes the time table.
struct Conditioning {
  TokenizerSpec second_tokenizer;
  bool zero_unconditional;
  /// Original height and width, top and left of the crop, target height and width, of the bundle's first size; see Manifest::time_ids.
  std::array<float, 6> time_ids;
};

struct LayerSummary {
  std::string name;
  std::string kind;
  std::int64_t weight_bits;
  std::optional<std::int64_t> activation_bits;
  std::string scheme;
  std::int64_t weights;
  std::int64_t bytes;
};

struct QuantizationSummary {
  std::string method;
  std::string recipe;
  double average_weight_bits;
  std::int64_t unet_bytes;
  std::int64_t unet_download_bytes;
  std::int64_t unet_fp32_bytes;
  std::vector<LayerSummary> layers;
};

struct GoldenRun {
  std::string id;
  std::string prompt;
  std::uint64_t seed;
  std::string path;
};

/// A size of pictures that a bundle draws. Where there are several, U-Net and VAE decoder have a method for each; their weights
/// exist once.
struct PictureSize {
  std::int64_t width;
  std::int64_t height;
  std::int64_t latent_width;
  std::int64_t latent_height;
  /// Absent: the method that programs have anyway, as the first size has it.
  std::optional<std::string> method;
  /// A safetensors file with calls at this size; absent for the first, which golden runs check.
  std::optional<std::string> check;

  /// WIDTHxHEIGHT
  std::string title() const { return std::to_string(width) + "x" + std::to_string(height); }

  /// Whether the latents are of this size.
  bool fits(const LatentSpec& latents) const { return latent_width == latents.width && latent_height == latents.height; }
};

/// manifest.json of a bundle, field for field s2p_runtime.bundle.BundleManifest.
struct Manifest {
  std::string name;
  std::string family;
  /// What the programs are written for. Readers take any name; an engine refuses what it does not run.
  std::string target;
  std::string producer;
  std::string checkpoint_sha256;
  std::map<std::string, Component> components;
  /// Components that are the U-Net together, in the order in which they run; empty where it is one program, `unet`.
  std::vector<std::string> chunks;
  SamplingPlan plan;
  /// Where runs from a picture begin, one to each step of the plan. Empty: there is no component `vae_encoder`, and none can.
  std::vector<ImageStart> image_starts;
  double guidance;
  LatentSpec latents;
  /// Sizes of pictures, that of `latents` first.
  std::vector<PictureSize> sizes;
  TokenizerSpec tokenizer;
  /// Absent: one time table serves all prompts. Else it belongs to the prompt, and the bundle has a component `time_table`.
  std::optional<Conditioning> conditioning;
  QuantizationSummary quantization;
  std::vector<GoldenRun> golden;
  std::map<std::string, FileEntry> files;

  /// Components that are the U-Net, in the order in which they run.
  std::vector<std::string> unet_programs() const { return chunks.empty() ? std::vector<std::string>{"unet"} : chunks; }

  /// Chips whose programs the bundle has; empty: its programs run on any.
  std::vector<std::string> chips() const;

  /// Files that a device with this chip has no use for: programs of other chips, and what else lies in the folders named after chips.
  std::set<std::string> unused_on(const std::string& chip) const;

  /// The size of these pixels. Throws Error(bad_input) when the bundle does not draw it.
  const PictureSize& size_of(std::int64_t width, std::int64_t height) const;

  /// Time ids of a picture of this size, with `conditioning`: of an uncropped one where it is not the first.
  std::array<float, 6> time_ids(const PictureSize& size) const;

  /// Batch of the U-Net: 2 with classifier-free guidance, else 1.
  std::int64_t batch() const { return guidance > 1.0 ? 2 : 1; }

  /// Throws Error(invalid) unless what the parts say of each other holds.
  void check_links() const;

  /// Throws Error(not_json, wrong_format, bad_version, future_version, invalid). `source` names the text in messages.
  static Manifest parse(const std::string& text, const std::string& source);
};

}  // namespace s2p
