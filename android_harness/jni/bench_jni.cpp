#include <jni.h>

#include "java_backend.h"
#include "java_env.h"
#include "java_sensors.h"
#include "s2p/bench.h"
#include "s2p/pipeline.h"

namespace {

/// Tells Java's BenchListener of every step.
std::function<void(const s2p::BenchEvent&)> told(JNIEnv* env, jobject listener) {
  const jmethodID on_event = env->GetMethodID(env->GetObjectClass(listener), "onEvent", "(IJJD)V");
  return [env, listener, on_event](const s2p::BenchEvent& event) {
    env->CallVoidMethod(listener, on_event, static_cast<jint>(event.kind), static_cast<jlong>(event.index),
                        static_cast<jlong>(event.total), static_cast<jdouble>(event.milliseconds));
    if (const jthrowable thrown = env->ExceptionOccurred()) {
      env->ExceptionClear();
      throw s2p::JavaThrown{thrown};
    }
  };
}

s2p::Probes probes_of(JNIEnv* env, jobject sensors) {
  const auto start = s2p::Clock::now();
  return {s2p::SystemFiles(), std::make_unique<s2p::JavaSensors>(env, sensors), [start] { return s2p::milliseconds_since(start) / 1000.0; }};
}

s2p::Chunks chunks_of(jboolean release) { return release == JNI_TRUE ? s2p::Chunks::release : s2p::Chunks::keep; }

}  // namespace

extern "C" {

/// The whole protocol on the calling thread, but for memory when that is measured in a launch of its own. Throws S2PException.
JNIEXPORT void JNICALL Java_mobile_s2p_Native_bench(JNIEnv* env, jobject, jbyteArray bundle_path, jbyteArray chip, jbyteArray report_path,
                                                    jint warmup, jint runs, jdouble cooldown, jdouble minimum, jdouble cool, jint threads,
                                                    jboolean release_chunks, jboolean memory_apart, jobject engine, jobject sensors,
                                                    jobject listener) {
  s2p::guarded(env, 0, [&] {
    const s2p::Bundle bundle = s2p::Bundle::open(s2p::to_text(env, bundle_path), s2p::to_text_or_none(env, chip));
    s2p::JavaBackend backend(env, engine);
    s2p::Probes probes = probes_of(env, sensors);
    s2p::BenchOptions options;
    options.protocol = {warmup, runs, cooldown, minimum, threads};
    options.cool_seconds = cool;
    options.chunks = chunks_of(release_chunks);
    // The driver launches the app again for it and puts the figures into the report.
    if (memory_apart == JNI_TRUE) options.memory_launch = [] { return std::nullopt; };
    s2p::write_result(s2p::to_text(env, report_path), s2p::run_bench(bundle, backend, probes, options, told(env, listener)));
    return 0;
  });
}

/// The `memory` of a report alone, drawn in this launch. Throws S2PException.
JNIEXPORT void JNICALL Java_mobile_s2p_Native_memory(JNIEnv* env, jobject, jbyteArray bundle_path, jbyteArray chip, jbyteArray out,
                                                     jboolean release_chunks, jobject engine, jobject sensors, jobject listener) {
  s2p::guarded(env, 0, [&] {
    const s2p::Bundle bundle = s2p::Bundle::open(s2p::to_text(env, bundle_path), s2p::to_text_or_none(env, chip));
    s2p::JavaBackend backend(env, engine);
    const s2p::Probes probes = probes_of(env, sensors);
    s2p::Memory memory = s2p::measure_memory(bundle, backend, probes, chunks_of(release_chunks), told(env, listener));
    memory.own_launch = true;
    s2p::write_json(s2p::to_text(env, out), memory.to_json());
    return 0;
  });
}

}  // extern "C"
