/// Where a drawing stands.
public struct Step: Sendable {
    /// What begins, or has just been done.
    public enum Stage: String, Sendable, CaseIterable {
        /// The picture to start from becomes latents, where there is one.
        case encoding
        /// The prompt is read. Where programs are not loaded yet, this takes longer.
        case reading
        /// The U-Net is called; ``Step/call`` says how often it was.
        case drawing
        /// Latents become pixels.
        case decoding
        /// ``Step/picture`` is there.
        case finished
    }

    /// The part of the work that it tells of.
    public let stage: Stage
    /// U-Net calls that were made.
    public let call: Int
    /// U-Net calls of this picture: at most ``Pipeline/callCount``, fewer where it starts from another one.
    public let calls: Int
    /// Behind each call: a small picture of the state as it stands, with its noise. One pixel stands for one latent.
    public let preview: Picture?
    /// In the last step alone.
    public let picture: Picture?

    /// From 0 to 1, by calls.
    public var fraction: Double { Double(call) / Double(calls) }

    package init(stage: Stage, call: Int, calls: Int, preview: Picture? = nil, picture: Picture? = nil) {
        self.stage = stage
        self.call = call
        self.calls = calls
        self.preview = preview
        self.picture = picture
    }
}

extension Step.Stage {
    /// By the part of a bundle that begins.
    init(component: String) {
        switch component {
        case "vae_encoder": self = .encoding
        case "unet": self = .drawing
        case "vae_decoder": self = .decoding
        default: self = .reading
        }
    }
}
