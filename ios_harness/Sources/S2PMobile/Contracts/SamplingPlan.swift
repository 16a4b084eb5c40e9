/// One term of a row: `coefficient` times entry `index` of the history. Written as `[index, coefficient]`.
package struct Term: Codable, Equatable, Sendable {
    package let index: Int
    package let coefficient: Double

    package init(index: Int, coefficient: Double) {
        self.index = index
        self.coefficient = coefficient
    }

    package init(from decoder: any Decoder) throws {
        var container = try decoder.unkeyedContainer()
        index = try container.decode(Int.self)
        coefficient = try container.decode(Double.self)
        guard container.isAtEnd else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "a term has two numbers")
        }
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.unkeyedContainer()
        try container.encode(index)
        try container.encode(coefficient)
    }
}

/// One U-Net call and the row that follows it.
package struct PlanCall: Codable, Equatable, Sendable {
    /// What the original U-Net was told; the harness passes the call's index instead.
    package let timestep: Double
    /// Factor on the state before it enters the U-Net.
    package let inputScale: Double
    package let states: [Term]
    package let outputs: [Term]
    /// Factor of the fresh noise z_i (Philox stream i + 1); 0 when deterministic.
    package let noise: Double

    enum CodingKeys: String, CodingKey {
        case timestep
        case inputScale = "input_scale"
        case states, outputs, noise
    }
}

/// All calls of one sampler at one number of steps (docs/formats.md).
package struct SamplingPlan: Codable, Equatable, Sendable {
    package let scheduler: String
    /// Steps as a user counts them; PNDM makes one call more.
    package let steps: Int
    package let predictionType: String
    package let initialScale: Double
    package let calls: [PlanCall]

    enum CodingKeys: String, CodingKey {
        case scheduler, steps
        case predictionType = "prediction_type"
        case initialScale = "initial_scale"
        case calls
    }

    func validate() throws(ContractViolation) {
        try require(steps >= 1, "plan.steps", "must be at least 1")
        try require(initialScale > 0, "plan.initial_scale", "must be above 0")
        try require(!calls.isEmpty, "plan.calls", "must not be empty")
        for (index, call) in calls.enumerated() {
            for term in call.states + call.outputs {
                try require((0...index).contains(term.index), "plan", "row of call \(index) refers to call \(term.index)")
            }
        }
    }
}
