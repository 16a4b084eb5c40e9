#include "choose_backend.h"

#include "s2p/error.h"
#include "s2p/replay_backend.h"

#ifdef S2P_WITH_EXECUTORCH
#include "executorch_backend.h"
#endif

namespace s2p {

std::unique_ptr<Backend> choose_backend(const Bundle& bundle, bool replay, std::optional<std::int64_t> threads) {
  if (replay) return std::make_unique<ReplayBackend>(bundle);
#ifdef S2P_WITH_EXECUTORCH
  return std::make_unique<ExecuTorchBackend>(threads);
#else
  static_cast<void>(threads);
  throw Error(ErrorKind::bad_input, "this runner was built without ExecuTorch; build it with a preset that has it (docs/devices.md)");
#endif
}

}  // namespace s2p
