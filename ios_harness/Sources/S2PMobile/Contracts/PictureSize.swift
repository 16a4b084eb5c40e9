/// A size of pictures that a bundle draws. Where there are several, U-Net and VAE have a function for each; their weights exist once.
package struct PictureSize: Codable, Equatable, Sendable {
    package let width: Int
    package let height: Int
    package let latentWidth: Int
    package let latentHeight: Int
    /// Name of the function; nil: the default one, as the first size has it.
    @Nullable package var method: String?
    /// A safetensors file with calls at this size; nil for the first, which golden runs check.
    @Nullable package var check: String?

    /// `WIDTHxHEIGHT`
    package var title: String { "\(width)x\(height)" }

    enum CodingKeys: String, CodingKey {
        case width, height
        case latentWidth = "latent_width"
        case latentHeight = "latent_height"
        case method, check
    }
}

extension BundleManifest {
    /// A size by its pixels.
    ///
    /// - Throws: `usage` when the bundle does not draw it.
    package func size(width: Int, height: Int) throws(S2PError) -> PictureSize {
        if let size = sizes.first(where: { $0.width == width && $0.height == height }) { return size }
        throw .usage(
            "\(name) draws \(sizes.map(\.title).joined(separator: ", ")), not \(width)x\(height)",
            "choose one of these, or convert again with --size \(width)x\(height)"
        )
    }

    /// What SDXL is told of a picture's size, see `Conditioning.timeIDs`; nil: one time table serves all prompts.
    ///
    /// The manifest has the numbers of its first size. Those of another one are an uncropped picture's, as diffusers'
    /// StableDiffusionXLPipeline fills them in by default.
    package func timeIDs(at size: PictureSize) -> [Double]? {
        guard let conditioning else { return nil }
        if size.latentWidth == latents.width && size.latentHeight == latents.height { return conditioning.timeIDs }
        let (width, height) = (Double(size.width), Double(size.height))
        return [height, width, 0, 0, height, width]
    }
}

extension LatentSpec {
    /// Latents of a picture size of the bundle.
    package func resized(to size: PictureSize) -> LatentSpec {
        var resized = self
        (resized.height, resized.width) = (size.latentHeight, size.latentWidth)
        return resized
    }
}

extension ComponentSpec {
    /// The component as its function for a picture size of the bundle takes and gives tensors.
    package func resized(to size: PictureSize) -> ComponentSpec {
        ComponentSpec(
            path: path, precision: precision, inputs: inputs.map { $0.resized(to: size) }, outputs: outputs.map { $0.resized(to: size) },
            backend: backend, computeUnit: computeUnit, chips: chips
        )
    }
}

extension TensorSpec {
    private static let ofLatents = ["sample", "noise_pred", "latents", "moments"]
    private static let ofPictures = ["image"]

    /// Latents and pictures [..., H, W] change with the picture size, and nothing else does.
    func resized(to size: PictureSize) -> TensorSpec {
        let plane: [Int]
        if Self.ofLatents.contains(name) {
            plane = [size.latentHeight, size.latentWidth]
        } else if Self.ofPictures.contains(name) {
            plane = [size.height, size.width]
        } else {
            return self
        }
        return TensorSpec(name: name, dtype: dtype, shape: shape.dropLast(2) + plane)
    }
}
