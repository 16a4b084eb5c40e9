#include "s2p/platform_sensors.h"

#ifdef __ANDROID__
#include <dlfcn.h>

#include <cmath>
#endif

namespace s2p {

#ifdef __ANDROID__
namespace {

/// AThermal_* of libandroid.so: status since API 30, headroom since API 31.
class ThermalManager : public PlatformSensors {
 public:
  ThermalManager() {
    library_ = dlopen("libandroid.so", RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) return;
    find(acquire_, "AThermal_acquireManager");
    find(release_, "AThermal_releaseManager");
    find(status_, "AThermal_getCurrentThermalStatus");
    find(headroom_, "AThermal_getThermalHeadroom");
    if (acquire_ != nullptr) manager_ = acquire_();
  }

  ~ThermalManager() override {
    if (manager_ != nullptr && release_ != nullptr) release_(manager_);
    if (library_ != nullptr) dlclose(library_);
  }

  std::optional<int> thermal_status() override {
    if (manager_ == nullptr || status_ == nullptr) return std::nullopt;
    const int status = status_(manager_);
    return status >= 0 ? std::optional<int>(status) : std::nullopt;
  }

  std::optional<double> thermal_headroom() override {
    if (manager_ == nullptr || headroom_ == nullptr) return std::nullopt;
    const float headroom = headroom_(manager_, 0);
    return std::isfinite(headroom) ? std::optional<double>(headroom) : std::nullopt;
  }

 private:
  template <typename Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(library_, name));
  }

  void* library_ = nullptr;
  void* manager_ = nullptr;
  void* (*acquire_)() = nullptr;
  void (*release_)(void*) = nullptr;
  int (*status_)(void*) = nullptr;
  float (*headroom_)(void*, int) = nullptr;
};

}  // namespace

std::unique_ptr<PlatformSensors> native_sensors() { return std::make_unique<ThermalManager>(); }
#else
std::unique_ptr<PlatformSensors> native_sensors() { return std::make_unique<PlatformSensors>(); }
#endif

}  // namespace s2p
