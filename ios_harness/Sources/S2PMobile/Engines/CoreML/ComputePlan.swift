#if canImport(CoreML)
import CoreML
import Foundation

/// Which processor Core ML means to run each operator on.
@available(iOS 17.4, macOS 14.4, *)
enum ComputePlan {
    /// Operators of a function in the order of the program; empty when Core ML gives no plan. The plan is for this function, and the
    /// program may have others, for other picture sizes.
    static func operators(
        program name: String, function: String, compiled: URL, configuration: MLModelConfiguration
    ) async -> [PlacedOperator] {
        guard let plan = try? await MLComputePlan.load(contentsOf: compiled, configuration: configuration),
            case .program(let program) = plan.modelStructure, let body = program.functions[function]
        else { return [] }
        return placement(of: described(body.block, by: plan), program: name, function: function)
    }

    /// The operations of a block, those inside of an operation behind it.
    private static func described(_ block: MLModelStructure.Program.Block, by plan: MLComputePlan) -> [DescribedOperation] {
        block.operations.flatMap { operation in
            let usage = plan.deviceUsage(for: operation).map { (preferred: processor($0.preferred), supported: $0.supported.map(processor)) }
            let own = DescribedOperation(
                type: operation.operatorName, outputs: operation.outputs.map(\.name), usage: usage,
                cost: plan.estimatedCost(of: operation)?.weight
            )
            return [own] + operation.blocks.flatMap { described($0, by: plan) }
        }
    }

    private static func processor(_ device: MLComputeDevice) -> Processor {
        switch device {
        case .neuralEngine: .neuralEngine
        case .gpu: .gpu
        case .cpu: .cpu
        @unknown default: .other
        }
    }
}
#endif
