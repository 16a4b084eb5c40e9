#include <iostream>

#include "arguments.h"
#include "choose_backend.h"
#include "s2p/affinity.h"
#include "s2p/bench.h"
#include "s2p/error.h"
#include "s2p/pipeline.h"

namespace {

constexpr const char* kUsage =
    "s2p-bench BUNDLE [--out report.json] [--runs 5] [--warmup 1] [--cooldown SECONDS] [--minimum-seconds 60]\n"
    "          [--threads N] [--cores 4-7] [--fidelity-floor-db 30] [--system-root DIR]\n"
    "          [--release-chunks] [--replay]\n"
    "\n"
    "Measures a bundle, writes a report and, beside it, the pictures of the golden runs as REPORT-ID.png; progress goes to\n"
    "stdout, one JSON object a line.\n"
    "--release-chunks loads each program of a U-Net in several for every call and drops it.\n"
    "--system-root reads /proc, /sys and /etc below DIR. --replay measures the harness without an engine.\n";

void print(const s2p::BenchEvent& event) {
  static constexpr const char* names[] = {"loaded", "warmup", "image", "call", "fidelity", "memory_pass"};
  const s2p::Json line = {{"event", names[static_cast<int>(event.kind)]},
                          {"index", event.index},
                          {"total", event.total},
                          {"ms", event.milliseconds}};
  std::cout << line.dump() << std::endl;
}

void run(int count, char** values) {
  const s2p::Arguments arguments(
      count, values,
      {"out", "runs", "warmup", "cooldown", "minimum-seconds", "threads", "cores", "fidelity-floor-db", "system-root"}, {"replay", "release-chunks"});
  s2p::BenchOptions options;
  s2p::Protocol& protocol = options.protocol;
  protocol.runs = arguments.integer("runs", 1).value_or(protocol.runs);
  protocol.warmup_runs = arguments.integer("warmup", 0).value_or(protocol.warmup_runs);
  protocol.cooldown_seconds = arguments.number("cooldown").value_or(protocol.cooldown_seconds);
  protocol.minimum_seconds = arguments.number("minimum-seconds").value_or(protocol.minimum_seconds);
  protocol.threads = arguments.integer("threads", 1);
  options.fidelity_floor_db = arguments.number("fidelity-floor-db").value_or(options.fidelity_floor_db);
  if (arguments.flag("release-chunks")) options.chunks = s2p::Chunks::release;
  if (const auto cores = arguments.text("cores")) s2p::pin_to_cores(s2p::parse_cores(*cores));

  const s2p::Bundle bundle = s2p::Bundle::open(arguments.bundle());
  const auto backend = s2p::choose_backend(bundle, arguments.flag("replay"), protocol.threads);
  const auto start = s2p::Clock::now();
  s2p::Probes probes(s2p::SystemFiles(arguments.text("system-root").value_or("/")), s2p::native_sensors(),
                     [start] { return s2p::milliseconds_since(start) / 1000.0; });
  s2p::write_result(arguments.text("out").value_or("report.json"), s2p::run_bench(bundle, *backend, probes, options, print));
}

}  // namespace

int main(int count, char** values) { return s2p::run_tool(kUsage, count, values, run); }
