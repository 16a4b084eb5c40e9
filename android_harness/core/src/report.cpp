#include "s2p/report.h"

#include <unistd.h>

#include <cmath>
#include <ctime>
#include <fstream>
#include <system_error>

#include "s2p/error.h"

namespace s2p {
namespace {

using Json = nlohmann::json;

constexpr const char* kReportFormat = "s2p-report";
constexpr int kReportVersion = 2;

template <typename T>
Json nullable(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json to_json(const Summary& summary) {
  return {{"count", summary.count},
          {"p50", summary.p50},
          {"p90", summary.p90},
          {"p99", summary.p99},
          {"trimmed_mean", summary.trimmed_mean}};
}

Json to_json(const Device& device) {
  return {{"model", device.model},
          {"os", device.os},
          {"soc", nullable(device.soc)},
          {"memory_bytes", nullable(device.memory_bytes)},
          {"cores", nullable(device.cores)}};
}

Json to_json(const Protocol& protocol) {
  return {{"warmup_runs", protocol.warmup_runs},
          {"runs", protocol.runs},
          {"cooldown_seconds", protocol.cooldown_seconds},
          {"minimum_seconds", protocol.minimum_seconds},
          {"threads", nullable(protocol.threads)}};
}

Json to_json(const Timings& timings) {
  return {{"load", timings.load},
          {"text_encoder", timings.text_encoder},
          {"unet_call", timings.unet_call},
          {"vae_decoder", timings.vae_decoder},
          {"image", timings.image}};
}

Json summaries(const Timings& timings) {
  std::vector<double> calls;
  for (const auto& image : timings.unet_call) calls.insert(calls.end(), image.begin(), image.end());
  Json result = Json::object();
  const std::pair<const char*, const std::vector<double>*> groups[] = {{"text_encoder", &timings.text_encoder},
                                                                       {"unet_call", &calls},
                                                                       {"vae_decoder", &timings.vae_decoder},
                                                                       {"image", &timings.image}};
  for (const auto& [name, samples] : groups) {
    if (const auto summary = summarize(*samples)) result[name] = to_json(*summary);
  }
  return result;
}

Json to_json(const Memory& memory) {
  Json samples = Json::array();
  for (const MemorySample& sample : memory.samples) samples.push_back(Json::array({sample.seconds, sample.bytes}));
  return {{"baseline_bytes", nullable(memory.baseline_bytes)},
          {"peak_bytes", nullable(memory.peak_bytes)},
          {"method", memory.method},
          {"samples", samples}};
}

Json to_json(const ThermalSample& sample) {
  return {{"seconds", sample.seconds},
          {"state", nullable(sample.state)},
          {"celsius", sample.celsius},
          {"headroom", nullable(sample.headroom)}};
}

Json to_json(const EnergySample& sample) {
  return {{"seconds", sample.seconds},
          {"milliwatts", nullable(sample.milliwatts)},
          {"battery_level", nullable(sample.battery_level)}};
}

Json to_json(const Fidelity& fidelity) {
  Json result = {{"golden_id", fidelity.golden_id},
                 {"latent_psnr_db", nullable(fidelity.latents.psnr_db)},
                 {"latent_max_abs", fidelity.latents.max_abs},
                 {"image_psnr_db", nullptr},
                 {"image_max_abs", nullptr}};
  if (fidelity.picture) {
    result["image_psnr_db"] = nullable(fidelity.picture->psnr_db);
    result["image_max_abs"] = fidelity.picture->max_abs;
  }
  return result;
}

Json to_json(const Validity& validity) {
  return {{"unplugged", nullable(validity.unplugged)},
          {"low_power_mode_off", nullable(validity.low_power_mode_off)},
          {"thermal_nominal_at_start", nullable(validity.thermal_nominal_at_start)},
          {"minimum_duration_met", validity.minimum_duration_met},
          {"fidelity_ok", validity.fidelity_ok}};
}

template <typename T>
Json list(const std::vector<T>& values) {
  Json result = Json::array();
  for (const T& value : values) result.push_back(to_json(value));
  return result;
}

}  // namespace

Json Report::to_json() const {
  return {{"format", kReportFormat},
          {"version", kReportVersion},
          {"harness", harness},
          {"harness_version", harness_version},
          {"created", created},
          {"device", s2p::to_json(device)},
          {"bundle_name", bundle_name},
          {"bundle_sha256", bundle_sha256},
          {"target", target},
          {"backend", backend},
          {"compute_units", Json::object()},
          {"placement", Json::array()},
          {"protocol", s2p::to_json(protocol)},
          {"timings_ms", s2p::to_json(timings)},
          {"summary_ms", summaries(timings)},
          {"memory", s2p::to_json(memory)},
          {"thermal", list(thermal)},
          {"energy", list(energy)},
          {"fidelity", list(fidelity)},
          {"validity", s2p::to_json(validity)},
          {"missing", missing}};
}

void write_report(const std::filesystem::path& path, const Report& report) {
  const std::filesystem::path scratch = path.string() + "." + std::to_string(getpid()) + ".partial";
  std::ofstream stream(scratch, std::ios::binary);
  // The device's own texts (a model name, a sensor's type) need not be UTF-8.
  stream << report.to_json().dump(1, ' ', false, Json::error_handler_t::replace) << "\n";
  stream.close();
  std::error_code error;
  if (stream) std::filesystem::rename(scratch, path, error);
  if (!stream || error) {
    std::error_code ignored;
    std::filesystem::remove(scratch, ignored);
    throw Error(ErrorKind::bad_input, "cannot write " + path.string() + "; free some space or choose another place with --out");
  }
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace s2p
