/// One picture: latents, decoder output, and how long each part took, in milliseconds.
package struct Drawing: Sendable {
    /// [1, C, H, W]
    package var latents: Tensor
    /// [1, 3, 8H, 8W] in [-1, 1]
    package var image: Tensor
    /// One entry per component that was loaded for this picture.
    package var loadMS: [String: Double]
    /// The texts (empty text and prompt) together, with the prompt's time table where it has its own.
    package var textEncoderMS: Double
    package var unetCallMS: [Double]
    package var decoderMS: Double
    package var totalMS: Double
}

/// What is drawn.
package struct DrawingRequest: Equatable, Sendable {
    package var prompt: String
    /// What to stay away from; nil: the empty text, as the model's family takes it.
    package var negativePrompt: String?
    /// Of the noise.
    package var seed: UInt64
    /// What to start from; nil: noise alone.
    package var image: FromPicture?
    /// One of the manifest's; nil: its first.
    package var size: PictureSize?

    package init(
        prompt: String, negativePrompt: String? = nil, seed: UInt64, image: FromPicture? = nil, size: PictureSize? = nil
    ) {
        self.prompt = prompt
        self.negativePrompt = negativePrompt
        self.seed = seed
        self.image = image
        self.size = size
    }
}

/// A picture to start from, with noise on it (Meng et al. 2022, arXiv 2108.01073).
package struct FromPicture: Equatable, Sendable {
    /// Of the size that is drawn.
    package var picture: Picture
    /// How much of it is drawn anew, above 0 and at most 1.
    package var strength: Double

    package init(_ picture: Picture, strength: Double) {
        self.picture = picture
        self.strength = strength
    }
}

/// What a drawing tells while it goes on.
package enum DrawingEvent: Sendable {
    /// A component begins: it is loaded where it is not yet.
    case began(component: String)
    /// Milliseconds of one U-Net call.
    case called(index: Int, milliseconds: Double)
    /// The state that the call led to, [1, C, H, W].
    case state(index: Int, Tensor)
}
