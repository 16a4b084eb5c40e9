#include "java_backend.h"

#include "s2p/safetensors.h"

namespace s2p {
namespace {

std::size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::float16: return 2;
    case DType::float32:
    case DType::int32: return 4;
    case DType::int64: return 8;
  }
  return 0;
}

class JavaProgram : public Program {
 public:
  JavaProgram(JNIEnv* env, jobject program) : program_(env, program) {}

  ~JavaProgram() override {
    const JavaEnv env(program_.machine());
    env->CallVoidMethod(program_.get(), program_.method(env.get(), "close", "()V"));
    env->ExceptionClear();
  }

  std::vector<float> run(const std::vector<TensorView>& inputs) override { return run_all(inputs).front(); }

  std::vector<std::vector<float>> run_all(const std::vector<TensorView>& inputs) override {
    const JavaEnv env(program_.machine());
    const auto count = static_cast<jsize>(inputs.size());
    if (env->PushLocalFrame(3 * count + 8) != 0) rethrow(env.get(), "run a component");
    const Frame frame{env.get()};
    const jobjectArray buffers = env->NewObjectArray(count, env->FindClass("java/nio/ByteBuffer"), nullptr);
    const jobjectArray shapes = env->NewObjectArray(count, env->FindClass("[J"), nullptr);
    const jintArray dtypes = env->NewIntArray(count);
    for (jsize i = 0; i < count; ++i) {
      const TensorView& view = inputs[static_cast<std::size_t>(i)];
      const auto bytes = static_cast<jlong>(element_count(view.shape) * dtype_bytes(view.dtype));
      // The buffer only lends the data for this call; the engine reads it before it returns.
      env->SetObjectArrayElement(buffers, i, env->NewDirectByteBuffer(const_cast<void*>(view.data), bytes));
      const auto rank = static_cast<jsize>(view.shape.size());
      const jlongArray shape = env->NewLongArray(rank);
      const std::vector<jlong> dimensions(view.shape.begin(), view.shape.end());
      env->SetLongArrayRegion(shape, 0, rank, dimensions.data());
      env->SetObjectArrayElement(shapes, i, shape);
      const jint dtype = static_cast<jint>(view.dtype);
      env->SetIntArrayRegion(dtypes, i, 1, &dtype);
    }
    const jmethodID run = program_.method(env.get(), "run", "([Ljava/nio/ByteBuffer;[I[[J)[[F");
    const auto outputs = static_cast<jobjectArray>(env->CallObjectMethod(program_.get(), run, buffers, dtypes, shapes));
    rethrow(env.get(), "run a component");
    std::vector<std::vector<float>> all(static_cast<std::size_t>(env->GetArrayLength(outputs)));
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto output = static_cast<jfloatArray>(env->GetObjectArrayElement(outputs, static_cast<jsize>(i)));
      all[i].resize(static_cast<std::size_t>(env->GetArrayLength(output)));
      env->GetFloatArrayRegion(output, 0, static_cast<jsize>(all[i].size()), all[i].data());
      env->DeleteLocalRef(output);
    }
    return all;
  }

 private:
  struct Frame {
    JNIEnv* env;
    ~Frame() { env->PopLocalFrame(nullptr); }
  };

  JavaObject program_;
};

}  // namespace

std::unique_ptr<Program> JavaBackend::load(const std::string&, const Component& component, const std::filesystem::path& file) {
  const JavaEnv env(engine_.machine());
  const jmethodID load = engine_.method(env.get(), "load", "([B[B)Lmobile/s2p/EngineProgram;");
  const jbyteArray path = to_bytes(env.get(), file.string());
  const jbyteArray method = component.method ? to_bytes(env.get(), *component.method) : nullptr;
  const jobject program = env->CallObjectMethod(engine_.get(), load, path, method);
  env->DeleteLocalRef(path);
  env->DeleteLocalRef(method);
  rethrow(env.get(), "load a component");
  auto loaded = std::make_unique<JavaProgram>(env.get(), program);
  env->DeleteLocalRef(program);
  return loaded;
}

bool JavaBackend::prepare_npu() {
  const JavaEnv env(engine_.machine());
  env->CallVoidMethod(engine_.get(), engine_.method(env.get(), "prepareNpu", "()V"));
  // What it throws says what the app lacks, and is for whoever builds the app: it goes there as it is.
  if (const jthrowable thrown = env->ExceptionOccurred()) {
    env->ExceptionClear();
    throw JavaThrown{thrown};
  }
  return true;
}

std::string JavaBackend::describe(const Component& component) const { return "executorch AAR " + component.backend; }

}  // namespace s2p
