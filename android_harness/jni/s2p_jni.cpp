#include <jni.h>

#include "java_backend.h"
#include "java_env.h"
#include "java_sensors.h"
#include "s2p/bench.h"
#include "s2p/pipeline.h"

namespace {

void throw_in_java(JNIEnv* env, const char* message) {
  if (env->ExceptionCheck() == JNI_FALSE) env->ThrowNew(env->FindClass("java/lang/RuntimeException"), message);
}

/// Carries what Java's listener threw through the core, whose destructors must be free to call Java meanwhile.
struct ListenerFailed {
  jthrowable thrown;
};

}  // namespace

/// HarnessNative.bench: the whole protocol on the calling thread. Throws RuntimeException with a one-line message.
extern "C" JNIEXPORT void JNICALL Java_mobile_s2p_harness_HarnessNative_bench(
    JNIEnv* env, jobject, jstring bundle_path, jstring report_path, jint warmup, jint runs, jdouble cooldown_seconds,
    jint threads, jobject engine, jobject sensors, jobject listener) {
  try {
    const s2p::Bundle bundle = s2p::Bundle::open(s2p::to_text(env, bundle_path));
    s2p::JavaBackend backend(env, engine);
    const auto start = s2p::Clock::now();
    s2p::Probes probes(s2p::SystemFiles(), std::make_unique<s2p::JavaSensors>(env, sensors),
                       [start] { return s2p::milliseconds_since(start) / 1000.0; });
    s2p::BenchOptions options;
    options.protocol.warmup_runs = warmup;
    options.protocol.runs = runs;
    options.protocol.cooldown_seconds = cooldown_seconds;
    if (threads > 0) options.protocol.threads = threads;
    const s2p::JavaObject target(env, listener);
    const jmethodID on_event = target.method(env, "onEvent", "(IJJD)V");
    const s2p::BenchResult result = s2p::run_bench(bundle, backend, probes, options, [&](const s2p::BenchEvent& event) {
      env->CallVoidMethod(target.get(), on_event, static_cast<jint>(event.kind), static_cast<jlong>(event.index),
                          static_cast<jlong>(event.total), static_cast<jdouble>(event.milliseconds));
      if (const jthrowable thrown = env->ExceptionOccurred()) {
        env->ExceptionClear();
        throw ListenerFailed{thrown};
      }
    });
    s2p::write_result(s2p::to_text(env, report_path), result);
  } catch (const ListenerFailed& failure) {
    env->Throw(failure.thrown);
  } catch (const std::exception& error) {
    throw_in_java(env, error.what());
  }
}
