#include <iostream>

#include "arguments.h"
#include "choose_backend.h"
#include "memory_launch.h"
#include "s2p/affinity.h"
#include "s2p/bench.h"
#include "s2p/error.h"
#include "s2p/pipeline.h"

namespace {

constexpr const char* kUsage =
    "s2p-bench BUNDLE [--out report.json] [--runs 5] [--warmup 1] [--cooldown SECONDS] [--minimum-seconds 60]\n"
    "          [--threads N] [--cores 4-7] [--cool 600] [--fidelity-floor-db 30] [--picture-floor-db 20]\n"
    "          [--system-root DIR] [--release-chunks] [--chip NAME] [--memory-only] [--replay]\n"
    "\n"
    "Measures a bundle, writes a report and, beside it, the pictures of the golden runs as REPORT-ID.png; progress goes to\n"
    "stdout, one JSON object a line.\n"
    "--threads: one for each of --cores, else half the processors.\n"
    "--cool waits at most so long (600 s) for a device that is not throttled before anything is loaded; 0 does not wait.\n"
    "--memory-only draws one picture, samples memory and writes those figures alone; without it a process of its own does that.\n"
    "--release-chunks loads each program of a U-Net in several for every call and drops it.\n"
    "--chip: of a bundle that is compiled for chips, the one whose files are looked at; those of others need not be there.\n"
    "--system-root reads /proc, /sys and /etc below DIR. --replay measures the harness without an engine.\n";

void print(const s2p::BenchEvent& event) {
  static constexpr const char* names[] = {"loaded", "warmup", "image", "call", "fidelity", "memory_pass", "waiting"};
  const s2p::Json line = {{"event", names[static_cast<int>(event.kind)]},
                          {"index", event.index},
                          {"total", event.total},
                          {"ms", event.milliseconds}};
  std::cout << line.dump() << std::endl;
}

void run(int count, char** values) {
  const s2p::Arguments arguments(
      count, values,
      {"out", "runs", "warmup", "cooldown", "minimum-seconds", "threads", "cores", "cool", "fidelity-floor-db", "picture-floor-db", "system-root", "chip"},
      {"replay", "release-chunks", "memory-only"});
  const std::string out = arguments.text("out").value_or("report.json");
  s2p::BenchOptions options;
  s2p::Protocol& protocol = options.protocol;
  protocol.runs = arguments.integer("runs", 1).value_or(protocol.runs);
  protocol.warmup_runs = arguments.integer("warmup", 0).value_or(protocol.warmup_runs);
  protocol.cooldown_seconds = arguments.number("cooldown").value_or(protocol.cooldown_seconds);
  protocol.minimum_seconds = arguments.number("minimum-seconds").value_or(protocol.minimum_seconds);
  options.cool_seconds = arguments.number("cool").value_or(options.cool_seconds);
  options.fidelity_floor_db = arguments.number("fidelity-floor-db").value_or(options.fidelity_floor_db);
  if (arguments.flag("release-chunks")) options.chunks = s2p::Chunks::release;
  options.picture_floor_db = arguments.number("picture-floor-db").value_or(options.picture_floor_db);
  protocol.threads = arguments.integer("threads", 1).value_or(s2p::default_threads(s2p::pin_to_named_cores(arguments.text("cores"))));

  const s2p::Bundle bundle = s2p::Bundle::open(arguments.bundle(), arguments.text("chip"));
  const auto backend = s2p::choose_backend(bundle, arguments.flag("replay"), protocol.threads);
  const auto start = s2p::Clock::now();
  s2p::Probes probes(s2p::SystemFiles(arguments.text("system-root").value_or("/")), s2p::native_sensors(),
                     [start] { return s2p::milliseconds_since(start) / 1000.0; });
  if (arguments.flag("memory-only")) {
    s2p::end_with_parent();
    s2p::Memory memory = s2p::measure_memory(bundle, *backend, probes, options.chunks, print);
    memory.own_launch = true;
    s2p::write_json(out, memory.to_json());
    return;
  }
  options.memory_launch = [&] { return s2p::launch_for_memory(count, values, out + ".memory"); };
  s2p::write_result(out, s2p::run_bench(bundle, *backend, probes, options, print));
}

}  // namespace

int main(int count, char** values) { return s2p::run_tool(kUsage, count, values, run); }
