#if canImport(Darwin)
@preconcurrency import Darwin  // mach_task_self_ is a global variable
import Foundation
import S2PBench
import S2PMobile

#if os(iOS)
import UIKit
import os
#endif

/// The footprint that the system counts against an app's limit, and the kernel's record of its peak.
struct FootprintProbe: MemoryProbe {
    let method = "phys_footprint and ledger_phys_footprint_peak of TASK_VM_INFO"

    var footprintBytes: Int? { vmInfo.map { Int(clamping: $0.phys_footprint) } }
    var peakBytes: Int? { vmInfo.flatMap { $0.ledger_phys_footprint_peak > 0 ? Int(clamping: $0.ledger_phys_footprint_peak) : nil } }

    private var vmInfo: task_vm_info_data_t? {
        var info = task_vm_info_data_t()
        var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
        let status = withUnsafeMutablePointer(to: &info) { pointer in
            pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
            }
        }
        return status == KERN_SUCCESS ? info : nil
    }
}

/// `ProcessInfo.thermalState` and its change notifications. Apple's systems tell no temperature.
struct ProcessInfoThermalProbe: ThermalProbe {
    var state: ThermalState? { Self.current }
    var celsius: [String: Double] { [:] }

    func changes() -> AsyncStream<ThermalState> {
        AsyncStream { continuation in
            let task = Task {
                let center = NotificationCenter.default
                let name = ProcessInfo.thermalStateDidChangeNotification
                for await _ in center.notifications(named: name).map({ _ in () }) {
                    if let state = Self.current { continuation.yield(state) }
                }
                continuation.finish()
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }

    private static var current: ThermalState? {
        switch ProcessInfo.processInfo.thermalState {
        case .nominal: .nominal
        case .fair: .fair
        case .serious: .serious
        case .critical: .critical
        @unknown default: nil
        }
    }
}

/// Charge, cable and low-power mode. The level comes in steps of one to five per cent.
struct DeviceBatteryProbe: BatteryProbe {
    func read() async -> BatteryReading {
        let lowPower = ProcessInfo.processInfo.isLowPowerModeEnabled
        #if os(iOS)
        return await MainActor.run {
            let device = UIDevice.current
            device.isBatteryMonitoringEnabled = true
            let unplugged: Bool? =
                switch device.batteryState {
                case .unplugged: true
                case .charging, .full: false
                case .unknown: nil
                @unknown default: nil
                }
            // -1 when the level is unknown, as on the simulator.
            let level = device.batteryLevel >= 0 ? Double(device.batteryLevel) : nil
            return BatteryReading(level: level, unplugged: unplugged, lowPowerMode: lowPower)
        }
        #else
        return BatteryReading(lowPowerMode: lowPower)
        #endif
    }
}

#if os(iOS)
/// The app's own notifications. A locked device takes the app's protected files away, which is how a lock is told.
struct AppLifecycleProbe: LifecycleProbe {
    func isForeground() async -> Bool? {
        await MainActor.run { UIApplication.shared.applicationState != .background }
    }

    func isUnlocked() async -> Bool? {
        await MainActor.run { UIApplication.shared.isProtectedDataAvailable }
    }

    func changes() -> AsyncStream<RunEvent.Kind> {
        let kinds: [(Notification.Name, RunEvent.Kind)] = [
            (UIApplication.didEnterBackgroundNotification, .background),
            (UIApplication.willEnterForegroundNotification, .foreground),
            (UIApplication.protectedDataWillBecomeUnavailableNotification, .lock),
            (UIApplication.protectedDataDidBecomeAvailableNotification, .unlock),
        ]
        return AsyncStream { continuation in
            let tasks = kinds.map { name, kind in
                Task {
                    for await _ in NotificationCenter.default.notifications(named: name).map({ _ in () }) { continuation.yield(kind) }
                }
            }
            continuation.onTermination = { _ in tasks.forEach { $0.cancel() } }
        }
    }
}
#endif

extension DeviceProbes {
    /// Probes of this device.
    package static func current() async -> DeviceProbes {
        let info = ProcessInfo.processInfo
        let version = info.operatingSystemVersion
        let number = "\(version.majorVersion).\(version.minorVersion).\(version.patchVersion)"
        var reasons = [
            "energy.milliwatts": "the system gives the charge level only; Xcode's power profiler measures power",
            "placement": "Core ML tells where operators run from iOS 17.4 and macOS 14.4 on",
        ]
        #if os(iOS)
        let (os, model, harness) = ("iOS \(number)", systemText("hw.machine") ?? "iPhone or iPad", BenchReport.Harness.ios)
        let lifecycle = AppLifecycleProbe()
        reasons["device.soc"] = "iOS does not name the chip; the model identifier stands for it"
        #else
        let (os, model, harness) = ("macOS \(number)", systemText("hw.model") ?? "Mac", BenchReport.Harness.host)
        let lifecycle = NoLifecycleProbe()
        reasons["energy"] = "this harness reads charge on iPhone and iPad only"
        reasons["validity.unplugged"] = reasons["energy"]
        #endif
        return DeviceProbes(
            clock: SystemClock(), memory: FootprintProbe(), thermal: ProcessInfoThermalProbe(), battery: DeviceBatteryProbe(), lifecycle: lifecycle,
            device: DeviceInfo(
                model: model, os: os, soc: systemText("machdep.cpu.brand_string"),
                memoryBytes: Int(exactly: info.physicalMemory), cores: info.activeProcessorCount
            ),
            harness: harness,
            reasons: reasons
        )
    }

    /// A text value of sysctl(3); nil where the system has none.
    private static func systemText(_ name: String) -> String? {
        var size = 0
        guard sysctlbyname(name, nil, &size, nil, 0) == 0, size > 1 else { return nil }
        var bytes = [UInt8](repeating: 0, count: size)
        guard sysctlbyname(name, &bytes, &size, nil, 0) == 0 else { return nil }
        return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
}
#endif
