#pragma once

#include <jni.h>

#include "java_env.h"
#include "s2p/backend.h"

namespace s2p {

/// Runs programs with the app's Engine (Kotlin), which wraps the ExecuTorch AAR.
class JavaBackend : public Backend {
 public:
  JavaBackend(JNIEnv* env, jobject engine) : engine_(env, engine) {}

  std::string_view target() const override { return "executorch"; }
  std::unique_ptr<Program> load(const std::string& name, const Component& component,
                                const std::filesystem::path& file) override;
  std::string describe(const Component& component) const override;
  bool prepare_npu() override;

 private:
  JavaObject engine_;
};

}  // namespace s2p
