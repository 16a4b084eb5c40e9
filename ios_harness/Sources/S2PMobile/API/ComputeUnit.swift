/// Processors that run a program: the Neural Engine or the GPU, each with the CPU for what is left; all of them; the CPU alone.
public enum ComputeUnit: String, Codable, Sendable, CaseIterable {
    /// The Neural Engine, and the CPU.
    case neuralEngine = "neural-engine"
    /// The GPU, and the CPU.
    case gpu
    /// Whatever the system finds best.
    case all
    /// The CPU alone, for comparisons.
    case cpu

    /// What programs may be written for. The CPU alone is for comparisons.
    package static let inManifests: [ComputeUnit] = [.neuralEngine, .gpu, .all]

    /// As manifests name it.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        guard let unit = Self(rawValue: try container.decode(String.self)), Self.inManifests.contains(unit) else {
            let known = Self.inManifests.map(\.rawValue).joined(separator: ", ")
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "is not one of \(known)")
        }
        self = unit
    }
}
