#include <jni.h>

// Calls Java while an exception is pending, as code does that forgets to look.
extern "C" JNIEXPORT void JNICALL Java_mobile_s2p_PlantedJni_mistake(JNIEnv* env, jclass type) {
  env->ThrowNew(env->FindClass("java/lang/IllegalStateException"), "planted");
  env->GetStaticMethodID(type, "mistake", "()V");
}
