#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "s2p/backend.h"
#include "s2p/bundle.h"
#include "s2p/picture.h"
#include "s2p/tokenizer.h"

namespace s2p {

using Clock = std::chrono::steady_clock;

inline double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// What one picture cost, in milliseconds. `image` spans prompt to decoded picture, loop and tokenizer included.
struct ImageTimings {
  double text_encoder = 0;
  std::vector<double> unet_call;
  double vae_decoder = 0;
  double image = 0;
};

/// A picture to start from.
struct FromPicture {
  Picture picture;        ///< of the size that is drawn
  double strength = 0.8;  ///< how much of it is drawn anew: the share of the steps that is made, above 0 and at most 1
};

/// What is to be drawn.
struct Wish {
  std::string prompt;
  std::uint64_t seed = 0;
  std::optional<std::string> negative_prompt;  ///< what the unconditional branch is told instead of the empty text
  std::optional<FromPicture> image = std::nullopt;     ///< what the run starts from in place of noise
};

/// Who watches a picture grow. What a function throws ends the picture and comes out of `draw`.
struct Watcher {
  std::function<void(std::size_t call)> on_call;  ///< after every U-Net call
  std::size_t preview_every = 0;                  ///< calls made between two previews, 0: none; each costs a run of the decoder
  std::function<void(std::size_t call, const Picture& picture)> on_preview;  ///< the state after a call, decoded
};

struct Drawing {
  std::vector<float> latents;  ///< final state, [1, C, H, W]
  Picture picture;
  ImageTimings timings;
};

/// Whether components stay in memory between pictures, or are dropped as soon as a picture no longer needs them, so that
/// the text encoder, the U-Net and the decoder are never resident together.
enum class Residency { keep, release };

/// Of a U-Net in several programs: whether all stay loaded during the loop, or each is loaded for every call and dropped, so
/// that no more than the largest is in memory.
enum class Chunks { keep, release };

/// What stays in memory.
struct Stay {
  Residency residency = Residency::keep;
  Chunks chunks = Chunks::keep;
};

/// What lets programs, as large as their files, stay below `bytes`: all of them, else one stage at a time, else one program of the U-Net
/// at a time. Where even that is too much, that. 0: no bound.
Stay within_budget(const Bundle& bundle, std::uint64_t bytes);

/// What a prompt tells the U-Net, the same for all calls.
struct Conditions {
  std::vector<float> embeddings;  ///< [B, N, D], unconditional first
  std::vector<float> time_table;  ///< [B, T, K] where it belongs to the prompt (SDXL), else empty
};

/// Prompt to picture through the components of a bundle. Not thread-safe. Bundle and backend must outlive it.
class Pipeline {
 public:
  /// Throws Error(wrong_target) when the bundle's programs are not the backend's, or are compiled for chips and the backend runs no such
  /// programs or the device's chip is not known, what Backend::prepare_npu throws, Error(bad_input) when its components do not
  /// take the tensors of docs/formats.md.
  Pipeline(const Bundle& bundle, Backend& backend, Residency residency = Residency::keep, Chunks chunks = Chunks::keep);

  /// What is drawn and started from, and loaded for, from now on; until then it is the bundle's first size. Programs of another size are
  /// dropped: every loaded method may hold all weights in a layout of its own. Throws Error(bad_input) when the bundle has no such size.
  void set_size(std::int64_t width, std::int64_t height);
  const PictureSize& size() const { return size_; }

  /// Loads all that a picture from noise needs (chunks that are to be released one after the other). Without it a component is loaded
  /// when it is first needed; the VAE encoder always is, by the first picture that starts from one.
  void load();

  /// Milliseconds of the latest load of each component; a U-Net in several programs counts as one.
  const std::map<std::string, double>& load_ms() const { return load_ms_; }

  /// Loads what stays, or everything once, so that the system keeps the files at hand.
  void prewarm();

  /// Drops all loaded components; the next picture loads what it needs.
  void unload();

  /// Throws Error(bad_input) when the bundle draws from noise only.
  void require_image_starts() const;

  /// The plan's first call that a wish makes: 0 from noise, most often a later one from a picture. Throws Error(bad_input) when the bundle
  /// draws from noise only, the picture is of another size, or the strength is out of range.
  std::size_t first_call(const Wish& wish) const;

  /// Throws Error(bad_input) for a prompt that is not UTF-8, a negative one where nothing is guided, or what `first_call` refuses;
  /// Error(backend) when the engine fails; Error(check_failed) when the numbers of VAE encoder or decoder are not finite.
  Drawing draw(const Wish& wish, const Watcher& watcher = {});

 private:
  /// The loaded component. `counted`: a load of a chunk counts to that of the U-Net.
  Program& program(const std::string& name, bool counted = true);
  void finished(const std::string& name);
  void load_unet();
  void finished_chunk(const std::string& name);
  std::vector<float> call_unet(std::map<std::string, TensorView> known);
  Conditions embed(const Wish& wish);
  Conditions embed_pooled(const std::vector<std::string>& texts, bool own_negative);
  /// Where the run from a picture begins; null from noise.
  const ImageStart* image_start(const Wish& wish) const;
  std::vector<float> encode(const Picture& picture);
  std::vector<float> denoise_latents(const Conditions& conditions, const Wish& wish, const ImageStart* picture, ImageTimings& timings,
                                     const Watcher& watcher);
  Picture decode(const std::vector<float>& latents);
  void require_target() const;
  void require_chip() const;

  const Bundle& bundle_;
  Backend& backend_;
  Residency residency_;
  Chunks chunks_;
  ClipTokenizer tokenizer_;
  std::optional<ClipTokenizer> second_tokenizer_;  ///< with two text encoders
  PictureSize size_;
  std::map<std::string, Component> components_;  ///< at this size
  std::map<std::string, std::unique_ptr<Program>> programs_;
  std::map<std::string, double> load_ms_;
};

}  // namespace s2p
