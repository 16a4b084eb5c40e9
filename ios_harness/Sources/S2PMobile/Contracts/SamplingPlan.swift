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

/// How a run begins at a later call, from a picture in place of noise: `x_call = latents * E + noise * z`, with `E` the encoded picture
/// and `z` the noise that `x_0` is made of.
package struct ImageStart: Codable, Equatable, Sendable {
    /// The first that is made.
    package let call: Int
    /// Factor of the encoded picture.
    package let latents: Double
    /// Factor of the initial noise, Philox stream 0.
    package let noise: Double
    /// In place of the plan's from this call on: samplers that look back have nothing behind them yet.
    package let rows: [PlanCall]
}

extension SamplingPlan {
    /// The plan of a run that begins at `start`. Calls before it are not made, and their rows mean nothing.
    package func begun(at start: ImageStart) -> SamplingPlan {
        let rows = calls[..<start.call] + start.rows + calls[(start.call + start.rows.count)...]
        return SamplingPlan(
            scheduler: scheduler, steps: steps, predictionType: predictionType, initialScale: initialScale, calls: Array(rows)
        )
    }

    /// One start to each step, and no row that looks behind its start.
    func validate(_ starts: [ImageStart]) throws(ContractViolation) {
        try require(starts.count == steps, "image_starts", "\(starts.count) for \(steps) steps")
        // What the plan's rows from a call on look back to at most.
        var lowest = [Int](repeating: .max, count: calls.count + 1)
        for (index, call) in calls.enumerated().reversed() {
            lowest[index] = (call.states + call.outputs).reduce(lowest[index + 1]) { min($0, $1.index) }
        }
        for (number, start) in starts.enumerated() {
            let field = "image_starts.\(number)"
            let inside = calls.indices.contains(start.call) && start.rows.count <= calls.count - start.call
            try require(inside, field, "lies outside of the calls")
            for (index, row) in zip(start.call..., start.rows) {
                let known = (row.states + row.outputs).allSatisfy { (start.call...index).contains($0.index) }
                try require(known, field, "the row of call \(index) refers to what this start does not have")
                // Programs take the index of a call, not what a row says of it.
                let told = row.timestep == calls[index].timestep && row.inputScale == calls[index].inputScale
                try require(told, field, "tells call \(index) something else than the plan")
            }
            let whole = lowest[start.call + start.rows.count] >= start.call
            try require(whole, field, "a row of the plan refers to what this start does not have")
        }
    }
}
