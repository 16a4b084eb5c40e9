#include <cstring>
#include <fstream>
#include <iostream>
#include <optional>

#include "arguments.h"
#include "choose_backend.h"
#include "s2p/affinity.h"
#include "s2p/error.h"
#include "s2p/pipeline.h"
#include "s2p/png.h"
#include "s2p/ppm.h"

namespace {

constexpr const char* kUsage =
    "s2p-run BUNDLE --prompt TEXT [--negative-prompt TEXT] [--seed N] [--size WxH] [--out picture.png]\n"
    "        [--latents latents.safetensors] [--image picture.ppm] [--strength 0.8] [--threads N] [--cores 4-7] [--low-memory]\n"
    "        [--release-chunks] [--chip NAME] [--replay]\n"
    "\n"
    "Draws a picture. --size: of a bundle made with convert --size, which of its sizes; its own when left out.\n"
    "--latents also writes the final latents. --low-memory drops each component after use, --release-chunks each program of a\n"
    "U-Net in several after every call.\n"
    "--image starts from a picture of the size that is drawn, a binary PPM (P6, 8 bits), in place of noise; --strength says how\n"
    "much of it is drawn anew, above 0, at most 1. Needs a bundle made with convert --image-to-image.\n"
    "--chip: of a bundle that is compiled for chips, the one whose files are looked at.\n"
    "--replay answers with the bundle's first golden run instead of an engine.\n";

/// One float32 tensor named "latents".
void write_latents(const std::string& path, std::int64_t channels, const s2p::PictureSize& size, const std::vector<float>& latents) {
  const s2p::Json header = {{"latents",
                             {{"dtype", "F32"},
                              {"shape", {1, channels, size.latent_height, size.latent_width}},
                              {"data_offsets", {0, latents.size() * sizeof(float)}}}}};
  std::string text = header.dump();
  // The data starts at a multiple of 8 bytes, as other writers do it.
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(&length), sizeof length);
  stream << text;
  stream.write(reinterpret_cast<const char*>(latents.data()), static_cast<std::streamsize>(latents.size() * sizeof(float)));
  stream.close();
  if (!stream) throw s2p::Error(s2p::ErrorKind::bad_input, "cannot write " + path + "; choose another place with --latents");
}

/// What --image and --strength ask for.
std::optional<s2p::FromPicture> read_image(const s2p::Arguments& arguments, const s2p::Pipeline& pipeline) {
  const auto path = arguments.text("image");
  const auto strength = arguments.number("strength");
  if (!path) {
    if (strength) throw s2p::Error(s2p::ErrorKind::bad_input, "--strength has no effect without --image; add one, or leave it out");
    return std::nullopt;
  }
  pipeline.require_image_starts();
  const s2p::PictureSize& size = pipeline.size();
  s2p::FromPicture image{s2p::read_ppm(*path, static_cast<std::size_t>(size.width), static_cast<std::size_t>(size.height))};
  image.strength = strength.value_or(image.strength);
  return image;
}

void run(int count, char** values) {
  const s2p::Arguments arguments(
      count, values, {"prompt", "negative-prompt", "seed", "size", "out", "latents", "image", "strength", "threads", "cores", "chip"},
      {"low-memory", "release-chunks", "replay"});
  const auto prompt = arguments.text("prompt");
  if (!prompt) throw s2p::Error(s2p::ErrorKind::bad_input, "no prompt given; add --prompt TEXT");
  const std::uint64_t seed = arguments.seed("seed").value_or(0);
  const auto size = arguments.size("size");
  const std::int64_t threads =
      arguments.integer("threads", 1).value_or(s2p::default_threads(s2p::pin_to_named_cores(arguments.text("cores"))));

  const s2p::Bundle bundle = s2p::Bundle::open(arguments.bundle(), arguments.text("chip"));
  const auto backend = s2p::choose_backend(bundle, arguments.flag("replay"), threads);
  s2p::Pipeline pipeline(bundle, *backend, arguments.flag("low-memory") ? s2p::Residency::release : s2p::Residency::keep,
                         arguments.flag("release-chunks") ? s2p::Chunks::release : s2p::Chunks::keep);
  if (size) pipeline.set_size(size->first, size->second);
  const s2p::Drawing drawing = pipeline.draw({*prompt, seed, arguments.text("negative-prompt"), read_image(arguments, pipeline)});
  const std::string out = arguments.text("out").value_or("picture.png");
  s2p::write_png(out, drawing.picture);
  if (const auto path = arguments.text("latents")) write_latents(*path, bundle.manifest().latents.channels, pipeline.size(), drawing.latents);
  std::cout << out << ": " << drawing.picture.width << " x " << drawing.picture.height << ", "
            << drawing.timings.unet_call.size() << " calls, " << drawing.timings.image << " ms\n";
}

}  // namespace

int main(int count, char** values) { return s2p::run_tool(kUsage, count, values, run); }
