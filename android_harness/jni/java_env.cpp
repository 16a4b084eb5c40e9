#include "java_env.h"

namespace s2p {
namespace {

/// A java.lang.String of UTF-8 text; null with an exception pending when there is no memory.
jstring to_string(JNIEnv* env, const std::string& text) {
  const jbyteArray bytes = to_bytes(env, text);
  const jclass type = env->FindClass("java/lang/String");
  const jmethodID make = env->GetMethodID(type, "<init>", "([BLjava/lang/String;)V");
  const jstring encoding = env->NewStringUTF("UTF-8");
  return static_cast<jstring>(env->NewObject(type, make, bytes, encoding));
}

/// UTF-8 of a java.lang.String.
std::string from_string(JNIEnv* env, jstring text) {
  const jclass type = env->FindClass("java/lang/String");
  const jmethodID get = env->GetMethodID(type, "getBytes", "(Ljava/lang/String;)[B");
  const jstring encoding = env->NewStringUTF("UTF-8");
  const auto bytes = static_cast<jbyteArray>(env->CallObjectMethod(text, get, encoding));
  return env->ExceptionCheck() == JNI_TRUE ? "no message" : to_text(env, bytes);
}

}  // namespace

std::string to_text(JNIEnv* env, jbyteArray bytes) {
  const auto size = static_cast<std::size_t>(env->GetArrayLength(bytes));
  std::string text(size, '\0');
  env->GetByteArrayRegion(bytes, 0, static_cast<jsize>(size), reinterpret_cast<jbyte*>(text.data()));
  return text;
}

std::optional<std::string> to_text_or_none(JNIEnv* env, jbyteArray bytes) {
  return bytes == nullptr ? std::nullopt : std::optional<std::string>(to_text(env, bytes));
}

jbyteArray to_bytes(JNIEnv* env, const std::string& text) {
  const auto size = static_cast<jsize>(text.size());
  const jbyteArray bytes = env->NewByteArray(size);
  if (bytes != nullptr) env->SetByteArrayRegion(bytes, 0, size, reinterpret_cast<const jbyte*>(text.data()));
  return bytes;
}

void rethrow(JNIEnv* env, const char* action) {
  const jthrowable thrown = env->ExceptionOccurred();
  if (thrown == nullptr) return;
  env->ExceptionClear();
  const jclass type = env->GetObjectClass(thrown);
  const auto message = static_cast<jstring>(env->CallObjectMethod(thrown, env->GetMethodID(type, "toString", "()Ljava/lang/String;")));
  const bool failed = env->ExceptionCheck() == JNI_TRUE || message == nullptr;
  env->ExceptionClear();
  const std::string reason = failed ? "no message" : from_string(env, message);
  env->ExceptionClear();
  throw Error(ErrorKind::backend, "the engine could not " + std::string(action) + " (" + reason + "); convert the model again");
}

void throw_in_java(JNIEnv* env, const std::string& message) {
  if (env->ExceptionCheck() == JNI_TRUE) return;
  const jclass type = env->FindClass("mobile/s2p/S2PException");
  if (type == nullptr) return;
  const jstring text = to_string(env, message);
  if (text == nullptr) return;
  const jmethodID make = env->GetMethodID(type, "<init>", "(Ljava/lang/String;)V");
  const auto error = static_cast<jthrowable>(env->NewObject(type, make, text));
  if (error != nullptr) env->Throw(error);
}

}  // namespace s2p
