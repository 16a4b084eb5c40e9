/// The loop over the rows of a sampling plan.
package struct Sampler: Sendable {
    package let plan: SamplingPlan
    /// Index of the first call that is made.
    private let first: Int
    private let lastUse: [Entry: Int]

    private enum Entry: Hashable {
        case state(Int), output(Int)
    }

    /// - Parameter start: where a run from a picture begins; nil: at the first call.
    package init(plan: SamplingPlan, start: ImageStart? = nil) {
        self.plan = start.map(plan.begun) ?? plan
        first = start?.call ?? 0
        var uses: [Entry: Int] = [:]
        for (index, call) in self.plan.calls.enumerated().dropFirst(first) {
            for term in call.states { uses[.state(term.index)] = index }
            for term in call.outputs { uses[.output(term.index)] = index }
        }
        lastUse = uses
    }

    /// `x_0`: Philox stream 0 of `seed` times the initial scale, in float32.
    package func initialLatents(seed: UInt64, shape: [Int]) -> Tensor {
        var noise = Philox.gaussian(seed: seed, shape: shape)
        let scale = Float(plan.initialScale)
        for index in noise.data.indices { noise.data[index] *= scale }
        return noise
    }

    /// Walks all rows from `latents` (`x_0`, or with a start `x` of its call) and returns the final state.
    ///
    /// Each row is summed in double in the stored order (states, outputs, noise) and rounded to float32 once, so that
    /// every harness ends in the same bits when its U-Net does.
    ///
    /// - Parameters:
    ///   - seed: of the fresh noise; unused by deterministic plans.
    ///   - predict: (scaled state, call index) -> guided model output of the same shape.
    ///   - onState: told (call index, the state that it led to).
    package func denoise(
        from latents: Tensor, seed: UInt64, predict: (Tensor, Int) async throws -> Tensor, onState: (Int, Tensor) -> Void = { _, _ in }
    ) async throws -> Tensor {
        var states = [first: latents]
        var outputs: [Int: Tensor] = [:]
        var current = latents
        for (index, call) in plan.calls.enumerated().dropFirst(first) {
            let inputScale = Float(call.inputScale)
            let scaled = Tensor(shape: current.shape, data: current.data.map { inputScale * $0 })
            outputs[index] = try await predict(scaled, index).checked("output of call \(index)", shape: latents.shape)
            var total = [Double](repeating: 0, count: latents.data.count)
            for term in call.states { add(states[term.index], times: term.coefficient, to: &total) }
            for term in call.outputs { add(outputs[term.index], times: term.coefficient, to: &total) }
            if call.noise != 0 {
                let fresh = Philox.gaussian(seed: seed, shape: latents.shape, stream: UInt32(index + 1))
                add(fresh, times: call.noise, to: &total)
            }
            current = Tensor(shape: latents.shape, data: total.map { Float($0) })
            states[index + 1] = current
            onState(index, current)
            states = states.filter { $0.key > index || lastUse[.state($0.key), default: -1] > index }
            outputs = outputs.filter { lastUse[.output($0.key), default: -1] > index }
        }
        return current
    }

    private func add(_ tensor: Tensor?, times factor: Double, to total: inout [Double]) {
        guard let tensor else { return }
        for index in total.indices {
            total[index] += factor * Double(tensor.data[index])
        }
    }
}

/// Classifier-free guidance on a batch of two, [unconditional, conditional]: `u + guidance * (c - u)` in float32.
/// A batch of one is returned as it is.
package func guided(_ outputs: Tensor, guidance: Double) -> Tensor {
    guard outputs.shape.first == 2 else { return outputs }
    let half = outputs.data.count / 2
    let factor = Float(guidance)
    let mixed = (0..<half).map { index in
        let unconditional = outputs.data[index]
        return unconditional + factor * (outputs.data[half + index] - unconditional)
    }
    return Tensor(shape: [1] + outputs.shape.dropFirst(), data: mixed)
}
