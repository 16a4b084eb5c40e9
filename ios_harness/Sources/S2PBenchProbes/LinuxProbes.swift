#if os(Linux)
import Foundation
import S2PBench
import S2PMobile

/// Resident memory of this process from /proc.
struct ProcMemoryProbe: MemoryProbe {
    let method = "VmRSS and VmHWM of /proc/self/status"

    var footprintBytes: Int? { field("VmRSS:") }
    var peakBytes: Int? { field("VmHWM:") }

    /// A line is `Name:  123 kB`.
    private func field(_ name: String) -> Int? {
        guard let text = try? String(contentsOfFile: "/proc/self/status", encoding: .utf8) else { return nil }
        let line = text.split(separator: "\n").first { $0.hasPrefix(name) }
        return line?.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) }.map { $0 * 1024 }
    }
}

struct NoThermalProbe: ThermalProbe {
    var state: ThermalState? { nil }
    var celsius: [String: Double] { [:] }
    func changes() -> AsyncStream<ThermalState> { .finished }
}

struct NoBatteryProbe: BatteryProbe {
    func read() async -> BatteryReading { BatteryReading() }
}

extension DeviceProbes {
    /// Probes of this machine.
    package static func current() async -> DeviceProbes {
        let info = ProcessInfo.processInfo
        return DeviceProbes(
            clock: SystemClock(), memory: ProcMemoryProbe(), thermal: NoThermalProbe(), battery: NoBatteryProbe(),
            device: DeviceInfo(
                model: "Linux machine", os: info.operatingSystemVersionString, soc: nil,
                memoryBytes: Int(exactly: info.physicalMemory), cores: info.activeProcessorCount
            ),
            harness: .linux,
            reasons: [
                "thermal": "this harness reads heat on Apple devices only",
                "energy": "this harness reads charge on Apple devices only",
                "validity.unplugged": "this harness reads charge on Apple devices only",
                "validity.low_power_mode_off": "Linux has no low-power mode",
                "validity.thermal_nominal_at_start": "this harness reads heat on Apple devices only",
            ]
        )
    }
}
#endif
