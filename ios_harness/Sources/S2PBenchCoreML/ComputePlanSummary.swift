#if canImport(CoreML)
import CoreML
import Foundation

/// Which device Core ML means to run each operation on.
@available(iOS 17.4, macOS 14.4, *)
enum ComputePlanSummary {
    /// For example "Neural Engine 512, CPU 31"; nil when Core ML gives no plan. Constants have no device and do not count.
    static func operationCounts(compiled: URL, configuration: MLModelConfiguration) async -> String? {
        guard let plan = try? await MLComputePlan.load(contentsOf: compiled, configuration: configuration),
            case .program(let program) = plan.modelStructure
        else { return nil }
        var counts: [String: Int] = [:]
        func visit(_ block: MLModelStructure.Program.Block) {
            for operation in block.operations {
                if let usage = plan.deviceUsage(for: operation) { counts[name(usage.preferred), default: 0] += 1 }
                operation.blocks.forEach(visit)
            }
        }
        program.functions.values.forEach { visit($0.block) }
        let order = ["Neural Engine", "GPU", "CPU", "other"]
        return order.compactMap { device in counts[device].map { "\(device) \($0)" } }.joined(separator: ", ")
    }

    private static func name(_ device: MLComputeDevice) -> String {
        switch device {
        case .neuralEngine: "Neural Engine"
        case .gpu: "GPU"
        case .cpu: "CPU"
        @unknown default: "other"
        }
    }
}
#endif
