#include "s2p/report.h"

#include <unistd.h>

#include <cmath>
#include <ctime>
#include <fstream>
#include <system_error>

#include "s2p/error.h"
#include "s2p/json_fields.h"

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
  Json result = {{"load", timings.load},
                 {"text_encoder", timings.text_encoder},
                 {"unet_call", timings.unet_call},
                 {"vae_decoder", timings.vae_decoder},
                 {"image", timings.image}};
  if (!timings.load_phases.empty()) result["load_phases"] = timings.load_phases;
  return result;
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
  Json result = {{"unplugged", nullable(validity.unplugged)},
                 {"low_power_mode_off", nullable(validity.low_power_mode_off)},
                 {"thermal_nominal_at_start", nullable(validity.thermal_nominal_at_start)},
                 {"minimum_duration_met", validity.minimum_duration_met},
                 {"fidelity_ok", validity.fidelity_ok}};
  const std::pair<const char*, std::optional<bool>> later[] = {
      {"foreground", validity.foreground}, {"unlocked", validity.unlocked}, {"not_throttled", validity.not_throttled}};
  for (const auto& [name, value] : later) {
    if (value) result[name] = *value;
  }
  return result;
}

Json to_json(const RunEvent& event) {
  return {{"seconds", event.seconds}, {"kind", event.kind}, {"state", nullable(event.state)}};
}

std::optional<std::int64_t> bytes_or_null(Fields& fields, const std::string& name) {
  return fields.is_null(name) ? std::nullopt : std::optional<std::int64_t>(fields.integer(name, 0));
}

template <typename T>
Json list(const std::vector<T>& values) {
  Json result = Json::array();
  for (const T& value : values) result.push_back(to_json(value));
  return result;
}

}  // namespace

Json Memory::to_json() const {
  Json list = Json::array();
  for (const MemorySample& sample : samples) list.push_back(Json::array({sample.seconds, sample.bytes}));
  return {{"baseline_bytes", nullable(baseline_bytes)},
          {"peak_bytes", nullable(peak_bytes)},
          {"method", method},
          {"samples", list},
          {"own_launch", own_launch}};
}

Memory Memory::read(const Json& value) {
  Fields fields(value, "memory");
  Memory memory;
  memory.baseline_bytes = bytes_or_null(fields, "baseline_bytes");
  memory.peak_bytes = bytes_or_null(fields, "peak_bytes");
  memory.method = fields.text("method");
  memory.own_launch = fields.boolean("own_launch");
  for (const Json& sample : fields.array("samples")) {
    if (!sample.is_array() || sample.size() != 2) invalid("memory.samples", "not pairs");
    const std::int64_t bytes = whole_number(sample[1], "memory.samples", 0, std::numeric_limits<std::int64_t>::max());
    memory.samples.push_back({finite_number(sample[0], "memory.samples"), bytes});
  }
  fields.finish();
  return memory;
}

Json Report::to_json() const {
  Json result = {{"format", kReportFormat},
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
          {"memory", memory.to_json()},
          {"thermal", list(thermal)},
          {"energy", list(energy)},
          {"fidelity", list(fidelity)},
          {"validity", s2p::to_json(validity)},
          {"missing", missing}};
  if (validity.not_throttled || validity.foreground || validity.unlocked) result["events"] = list(events);
  return result;
}

void write_json(const std::filesystem::path& path, const Json& value) {
  const std::filesystem::path scratch = path.string() + "." + std::to_string(getpid()) + ".partial";
  std::ofstream stream(scratch, std::ios::binary);
  // The device's own texts (a model name, a sensor's type) need not be UTF-8.
  stream << value.dump(1, ' ', false, Json::error_handler_t::replace) << "\n";
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
