extension SamplingPlan {
    /// How many steps a picture to start from saves, as diffusers' `get_timesteps` counts them.
    ///
    /// - Parameter strength: share of the steps that is made, above 0 and at most 1, which begins at the first.
    /// - Throws: `usage`: out of range, or so little that no step is left.
    package func skippedSteps(strength: Double) throws(S2PError) -> Int {
        guard strength > 0, strength <= 1 else {
            throw .usage("strength \(strength) is out of range", "give a number above 0, at most 1")
        }
        let made = Int(Double(steps) * strength)
        guard made > 0 else {
            // Rounded up: one part of 3 as 0.333 would leave none again.
            let least = (1000 / Double(steps)).rounded(.up) / 1000
            throw .usage("strength \(strength) leaves none of \(steps) steps", "give \(least) or more")
        }
        return steps - made
    }
}

extension ImageStart {
    /// The state that a run begins at, `latents * E + noise * z`: summed in double and rounded to float32 once.
    ///
    /// - Parameters:
    ///   - encoded: the picture's latents, see `encodedLatents`.
    ///   - seed: of the noise, Philox stream 0.
    package func state(of encoded: Tensor, seed: UInt64) -> Tensor {
        let fresh = Philox.gaussian(seed: seed, shape: encoded.shape)
        let data = zip(encoded.data, fresh.data).map { Float(latents * Double($0) + noise * Double($1)) }
        return Tensor(shape: encoded.shape, data: data)
    }
}
