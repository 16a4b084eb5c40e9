/// Latent shape, and what stands between latents and the VAE: `decoderInput` and `encodedLatents`.
package struct LatentSpec: Codable, Equatable, Sendable {
    package let channels: Int
    package internal(set) var height: Int
    package internal(set) var width: Int
    package let scalingFactor: Double
    package let shiftFactor: Double
    /// Of each channel; nil: none is added.
    @Nullable package var mean: [Double]?
    /// Of each channel; nil: the latents are taken as they are.
    @Nullable package var std: [Double]?

    /// [1, C, H, W]
    package var shape: [Int] { [1, channels, height, width] }

    enum CodingKeys: String, CodingKey {
        case channels, height, width
        case scalingFactor = "scaling_factor"
        case shiftFactor = "shift_factor"
        case mean, std
    }

    /// Of latents and tokens: far above every model, and far below what memory holds. The C++ reader has the same.
    static let maximumDimension = 1 << 16
    /// Latents of 4096 x 4096 pixels with 64 channels have a quarter of it.
    static let maximumElements = 1 << 26

    func validate() throws(ContractViolation) {
        let sizes = [("channels", channels), ("height", height), ("width", width)]
        for (name, size) in sizes {
            let most = Self.maximumDimension
            try require((1...most).contains(size), "latents.\(name)", "must be from 1 to \(most)")
        }
        let small = elementCount(shape).map { $0 <= Self.maximumElements } ?? false
        try require(small, "latents", "are more than \(Self.maximumElements) numbers")
        try require(scalingFactor > 0, "latents.scaling_factor", "must be above 0")
        for (name, values) in [("mean", mean), ("std", std)] {
            try require(values.map { $0.count == channels } ?? true, "latents.\(name)", "must be a number for each channel")
        }
    }
}
