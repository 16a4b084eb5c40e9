#pragma once

#include <jni.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

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

/// What a Java function threw, on its way through the core to Java. The core's destructors are free to call Java meanwhile.
struct JavaThrown {
  jthrowable thrown;
};

/// Texts travel as UTF-8 in byte arrays: JNI's own strings are in a UTF-8 of their own, in which an emoji is six bytes that no file has.
std::string to_text(JNIEnv* env, jbyteArray bytes);
jbyteArray to_bytes(JNIEnv* env, const std::string& text);
std::optional<std::string> to_text_or_none(JNIEnv* env, jbyteArray bytes);

/// Turns a pending Java exception into Error(backend) with its message.
void rethrow(JNIEnv* env, const char* action);

/// Throws mobile.s2p.S2PException with this message, unless something is thrown already.
void throw_in_java(JNIEnv* env, const std::string& message);

/// Runs `work` and turns what it throws into an exception of Java; `nothing` is the result then.
template <typename Work, typename Result>
Result guarded(JNIEnv* env, Result nothing, const Work& work) {
  try {
    return work();
  } catch (const JavaThrown& failure) {
    env->Throw(failure.thrown);
  } catch (const std::bad_alloc&) {
    throw_in_java(env, "out of memory; give the pipeline a smaller memory budget");
  } catch (const std::exception& error) {
    throw_in_java(env, error.what());
  }
  return nothing;
}

}  // namespace s2p
