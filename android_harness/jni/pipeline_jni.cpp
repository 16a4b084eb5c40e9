#include <jni.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "java_backend.h"
#include "java_env.h"
#include "s2p/pipeline.h"

namespace {

/// An opened bundle with its pipeline; Java holds the address.
struct OpenPipeline {
  OpenPipeline(JNIEnv* env, const std::string& folder, const std::optional<std::string>& chip, jobject engine, std::uint64_t budget)
      : bundle(s2p::Bundle::open(folder, chip)), backend(env, engine), stay(s2p::within_budget(bundle, budget)),
        pipeline(bundle, backend, stay.residency, stay.chunks) {}

  s2p::Bundle bundle;
  s2p::JavaBackend backend;
  s2p::Stay stay;
  s2p::Pipeline pipeline;
};

/// Width times height RGB bytes as the picture to start from; nothing for null. Of another size, the pipeline refuses it.
std::optional<s2p::FromPicture> to_image(JNIEnv* env, jbyteArray bytes, jdouble strength, const s2p::PictureSize& size) {
  if (bytes == nullptr) return std::nullopt;
  const std::string rgb = s2p::to_text(env, bytes);
  return s2p::FromPicture{{static_cast<std::size_t>(size.width), static_cast<std::size_t>(size.height), {rgb.begin(), rgb.end()}}, strength};
}

/// The collector of the pictures went away.
struct Cancelled {};

OpenPipeline& opened(jlong handle) { return *reinterpret_cast<OpenPipeline*>(handle); }

/// Pixels as android.graphics.Color has them.
jintArray to_pixels(JNIEnv* env, const s2p::Picture& picture) {
  const std::size_t count = picture.width * picture.height;
  std::vector<jint> pixels(count);
  for (std::size_t i = 0; i < count; ++i) {
    const unsigned char* rgb = picture.rgb.data() + 3 * i;
    pixels[i] = static_cast<jint>(0xFF000000u | std::uint32_t{rgb[0]} << 16 | std::uint32_t{rgb[1]} << 8 | rgb[2]);
  }
  const jintArray array = env->NewIntArray(static_cast<jsize>(count));
  if (array != nullptr) env->SetIntArrayRegion(array, 0, static_cast<jsize>(count), pixels.data());
  return array;
}

/// Tells Java's listener of a call, or of a preview after one; ends the picture when it says so.
class Listener {
 public:
  Listener(JNIEnv* env, jobject listener, std::size_t calls)
      : env_(env), listener_(listener), calls_(calls),
        method_(env->GetMethodID(env->GetObjectClass(listener), "onStep", "(II[I)Z")) {}

  void tell(std::size_t call, const s2p::Picture* preview) const {
    const jintArray pixels = preview == nullptr ? nullptr : to_pixels(env_, *preview);
    const bool go_on = env_->CallBooleanMethod(listener_, method_, static_cast<jint>(call), static_cast<jint>(calls_), pixels) == JNI_TRUE;
    if (const jthrowable thrown = env_->ExceptionOccurred()) {
      env_->ExceptionClear();
      throw s2p::JavaThrown{thrown};
    }
    if (pixels != nullptr) env_->DeleteLocalRef(pixels);
    if (!go_on) throw Cancelled{};
  }

 private:
  JNIEnv* env_;
  jobject listener_;
  std::size_t calls_;
  jmethodID method_;
};

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL Java_mobile_s2p_Native_open(JNIEnv* env, jobject, jbyteArray folder, jbyteArray chip, jobject engine, jlong budget) {
  return s2p::guarded(env, jlong{0}, [&] {
    const auto limit = static_cast<std::uint64_t>(std::max<jlong>(budget, 0));
    auto pipeline = std::make_unique<OpenPipeline>(env, s2p::to_text(env, folder), s2p::to_text_or_none(env, chip), engine, limit);
    return reinterpret_cast<jlong>(pipeline.release());
  });
}

JNIEXPORT void JNICALL Java_mobile_s2p_Native_close(JNIEnv*, jobject, jlong handle) { delete &opened(handle); }

JNIEXPORT jbyteArray JNICALL Java_mobile_s2p_Native_name(JNIEnv* env, jobject, jlong handle) {
  return s2p::to_bytes(env, opened(handle).bundle.manifest().name);
}

/// Calls of a picture from noise, 1 where there is guidance, 1 where all stages stay loaded, 1 where pictures may start from one, then width
/// and height of each size of pictures.
JNIEXPORT jlongArray JNICALL Java_mobile_s2p_Native_numbers(JNIEnv* env, jobject, jlong handle) {
  const OpenPipeline& pipeline = opened(handle);
  const s2p::Manifest& manifest = pipeline.bundle.manifest();
  std::vector<jlong> numbers = {static_cast<jlong>(manifest.plan.calls.size()), manifest.batch() == 2 ? 1 : 0,
                                pipeline.stay.residency == s2p::Residency::keep ? 1 : 0, manifest.image_starts.empty() ? 0 : 1};
  for (const s2p::PictureSize& size : manifest.sizes) numbers.insert(numbers.end(), {size.width, size.height});
  const auto count = static_cast<jsize>(numbers.size());
  const jlongArray array = env->NewLongArray(count);
  if (array != nullptr) env->SetLongArrayRegion(array, 0, count, numbers.data());
  return array;
}

/// Loads all that stays loaded for pictures of a size, or everything once, so that the system has the files at hand.
JNIEXPORT void JNICALL Java_mobile_s2p_Native_prewarm(JNIEnv* env, jobject, jlong handle, jint width, jint height) {
  s2p::guarded(env, 0, [&] {
    s2p::Pipeline& pipeline = opened(handle).pipeline;
    pipeline.set_size(width, height);
    pipeline.prewarm();
    return 0;
  });
}

JNIEXPORT void JNICALL Java_mobile_s2p_Native_unload(JNIEnv*, jobject, jlong handle) { opened(handle).pipeline.unload(); }

/// Pixels of the picture; null when the listener ended it. `image`: RGB bytes to start from, or null. The listener counts the calls that
/// are made.
JNIEXPORT jintArray JNICALL Java_mobile_s2p_Native_draw(JNIEnv* env, jobject, jlong handle, jbyteArray prompt, jbyteArray negative,
                                                        jlong seed, jint width, jint height, jint preview_every,
                                                        jbyteArray image, jdouble strength, jobject listener) {
  return s2p::guarded(env, static_cast<jintArray>(nullptr), [&]() -> jintArray {
    OpenPipeline& pipeline = opened(handle);
    s2p::Wish wish{s2p::to_text(env, prompt), static_cast<std::uint64_t>(seed), s2p::to_text_or_none(env, negative)};
    pipeline.pipeline.set_size(width, height);
    wish.image = to_image(env, image, strength, pipeline.pipeline.size());
    const std::size_t first = pipeline.pipeline.first_call(wish);
    const std::size_t calls = pipeline.bundle.manifest().plan.calls.size() - first;
    const Listener told(env, listener, calls);
    s2p::Watcher watcher;
    const auto every = static_cast<std::size_t>(std::max(preview_every, 0));
    watcher.preview_every = every;
    watcher.on_call = [&](std::size_t call) {
      // A call with a preview is told once, with it.
      const std::size_t made = call + 1 - first;
      const bool shown = every != 0 && made % every == 0 && made < calls;
      if (!shown) told.tell(call - first, nullptr);
    };
    watcher.on_preview = [&](std::size_t call, const s2p::Picture& picture) { told.tell(call - first, &picture); };
    try {
      return to_pixels(env, pipeline.pipeline.draw(wish, watcher).picture);
    } catch (const Cancelled&) {
      return nullptr;
    }
  });
}

}  // extern "C"
