#pragma once

#include <jni.h>

#include <string>
#include <utility>

#include "s2p/error.h"

namespace s2p {

/// The environment of the current thread, attached to the virtual machine for as long as this lives.
class JavaEnv {
 public:
  explicit JavaEnv(JavaVM* machine) : machine_(machine) {
    if (machine->GetEnv(reinterpret_cast<void**>(&env_), JNI_VERSION_1_6) == JNI_OK) return;
#ifdef __ANDROID__
    attached_ = machine->AttachCurrentThread(&env_, nullptr) == JNI_OK;
#else
    attached_ = machine->AttachCurrentThread(reinterpret_cast<void**>(&env_), nullptr) == JNI_OK;
#endif
    if (!attached_) throw Error(ErrorKind::backend, "the thread cannot call Java; restart the app");
  }
  ~JavaEnv() {
    if (attached_) machine_->DetachCurrentThread();
  }
  JavaEnv(const JavaEnv&) = delete;
  JavaEnv& operator=(const JavaEnv&) = delete;

  JNIEnv* operator->() const { return env_; }
  JNIEnv* get() const { return env_; }

 private:
  JavaVM* machine_;
  JNIEnv* env_ = nullptr;
  bool attached_ = false;
};

/// A global reference that any thread may use.
class JavaObject {
 public:
  JavaObject(JNIEnv* env, jobject object) : object_(env->NewGlobalRef(object)) { env->GetJavaVM(&machine_); }
  ~JavaObject() { JavaEnv(machine_)->DeleteGlobalRef(object_); }
  JavaObject(const JavaObject&) = delete;
  JavaObject& operator=(const JavaObject&) = delete;

  jobject get() const { return object_; }
  JavaVM* machine() const { return machine_; }

  jmethodID method(JNIEnv* env, const char* name, const char* signature) const {
    const jclass type = env->GetObjectClass(object_);
    const jmethodID found = env->GetMethodID(type, name, signature);
    env->DeleteLocalRef(type);
    return found;
  }

 private:
  JavaVM* machine_ = nullptr;
  jobject object_;
};

inline std::string to_text(JNIEnv* env, jstring text) {
  const char* bytes = env->GetStringUTFChars(text, nullptr);
  std::string copy = bytes == nullptr ? "" : bytes;
  if (bytes != nullptr) env->ReleaseStringUTFChars(text, bytes);
  return copy;
}

/// Turns a pending Java exception into Error(backend) with its message.
inline void rethrow(JNIEnv* env, const char* action) {
  const jthrowable thrown = env->ExceptionOccurred();
  if (thrown == nullptr) return;
  env->ExceptionClear();
  const jclass type = env->GetObjectClass(thrown);
  const auto message = static_cast<jstring>(env->CallObjectMethod(thrown, env->GetMethodID(type, "toString", "()Ljava/lang/String;")));
  const std::string reason = env->ExceptionCheck() == JNI_TRUE || message == nullptr ? "no message" : to_text(env, message);
  env->ExceptionClear();
  throw Error(ErrorKind::backend, "the engine could not " + std::string(action) + " (" + reason + "); convert the model again");
}

}  // namespace s2p
