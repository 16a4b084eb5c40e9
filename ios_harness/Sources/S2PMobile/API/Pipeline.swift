import Foundation

/// A bundle that draws pictures.
///
/// ```swift
/// let pipeline = try await Pipeline(bundle: url)
/// for try await step in pipeline.generate("a red apple", seed: 1) {
///     show(step.picture ?? step.preview, step.fraction)
/// }
/// ```
///
/// Programs are loaded when a drawing needs them and stay, or go again, as the memory budget has it. One picture is drawn at a time: a
/// second call of ``generate(_:negativePrompt:seed:image:strength:size:)`` waits for the first.
///
/// A bundle that was converted for several picture sizes (`--size`) draws each of its ``sizes`` with the same weights.
public final class Pipeline: Sendable {
    /// Choices that suit most apps as they stand.
    public struct Configuration: Sendable {
        /// Processors for every program; nil: those that the bundle was converted for.
        public var computeUnit: ComputeUnit?
        /// Bytes that the programs may take together; nil: half of what the system still lets the app have.
        ///
        /// Where the bundle needs more, programs are loaded for their part of a picture and released behind it, which costs time.
        public var memoryBudget: Int?

        /// Both choices may be left to the bundle and the system.
        public init(computeUnit: ComputeUnit? = nil, memoryBudget: Int? = nil) {
            self.computeUnit = computeUnit
            self.memoryBudget = memoryBudget
        }
    }

    /// Of the model, as its bundle has it.
    public let name: String
    /// Of the pictures, in pixels, where none is asked for: the first of ``sizes``.
    public var size: (width: Int, height: Int) { sizes[0] }
    /// All sizes of pictures that the bundle draws, in pixels; at least one.
    public let sizes: [(width: Int, height: Int)]
    /// U-Net calls for a picture that starts from noise.
    public let callCount: Int
    /// Whether ``generate(_:negativePrompt:seed:image:strength:size:)`` takes a negative prompt: the bundle draws with guidance.
    public let takesNegativePrompts: Bool
    /// Whether ``generate(_:negativePrompt:seed:image:strength:size:)`` takes a picture to start from: the bundle was converted with
    /// `--image-to-image`.
    public let startsFromPictures: Bool

    package let drawing: ImagePipeline
    private let preview: Preview?
    private let turn = Turn()

    /// Opens a bundle and checks every file of it against its checksum. Nothing is loaded yet.
    ///
    /// - Parameters:
    ///   - bundle: a folder `NAME.s2pmobile`, as `s2p-mobile convert` makes it for the target `coreml` or `coreai`.
    ///   - configuration: see ``Configuration``.
    /// - Throws: ``S2PError`` when the bundle is damaged, or for another system.
    public convenience init(bundle: URL, configuration: Configuration = Configuration()) async throws {
        let opened = try ModelBundle(opening: bundle)
        let plan = MemoryPlan(for: opened, budget: configuration.memoryBudget ?? MemoryPlan.systemBudget)
        let options = EngineOptions(unit: configuration.computeUnit, chunks: plan.chunks)
        try self.init(
            bundle: opened, components: try await Engine.components(of: opened, options: options), residency: plan.residency
        )
    }

    /// On any set of components.
    package init(bundle: ModelBundle, components: ComponentSet, residency: Residency) throws {
        let manifest = bundle.manifest
        drawing = try ImagePipeline(bundle: bundle, components: components, residency: residency, clock: SystemClock())
        name = manifest.name
        sizes = manifest.sizes.map { ($0.width, $0.height) }
        callCount = manifest.plan.calls.count
        takesNegativePrompts = manifest.batch == 2
        startsFromPictures = manifest.imageStarts != nil
        var runs: [GoldenRun] = []
        for spec in manifest.golden { runs.append(try GoldenRun(spec, in: bundle)) }
        preview = Preview(goldenRuns: runs)
    }

    /// Makes the device ready: compiles and specialises every program for every picture size, one after the other, and releases it
    /// again.
    ///
    /// Do it once after a bundle arrived, with a screen that says so: it may take minutes. Afterwards a picture begins at once, also in
    /// later launches. Without it the first picture takes as much longer.
    ///
    /// - Throws: ``S2PError``; `CancellationError` when the task is cancelled, between two programs.
    public func prewarm() async throws {
        try await turn.take()
        do {
            try await drawing.prewarm()
        } catch {
            await turn.give()
            throw error
        }
        await turn.give()
    }

    /// Releases every program, for example when the system warns of memory. The next drawing loads them again.
    public func unload() async {
        do {
            try await turn.take()
        } catch {
            // Cancelled while a drawing goes on: that one needs its programs.
            return
        }
        await drawing.unload()
        await turn.give()
    }

    /// Draws a picture.
    ///
    /// The stream tells of every stage and call, and ends behind the step that holds the picture. Stop reading it, or cancel the task
    /// that reads, and the drawing stops at its next call.
    ///
    /// - Parameters:
    ///   - prompt: what to draw. What does not fit the text encoder is cut off.
    ///   - negativePrompt: what to stay away from; for bundles with guidance.
    ///   - seed: of the noise. The same seed gives the same picture.
    ///   - image: a picture to start from, of the size that is drawn; for bundles with ``startsFromPictures``. nil: noise alone.
    ///   - strength: how much of that picture is drawn anew: the share of the steps that is made, above 0 and at most 1, where
    ///     next to nothing of it is left. Without a picture it means nothing.
    ///   - size: one of ``sizes``; nil: the first. Programs for another size than the last picture's are loaded in place of its own.
    /// - Returns: steps; the stream throws ``S2PError`` or `CancellationError`.
    public func generate(
        _ prompt: String, negativePrompt: String? = nil, seed: UInt64 = .random(in: .min ... .max), image: Picture? = nil,
        strength: Double = 0.8, size: (width: Int, height: Int)? = nil
    ) -> AsyncThrowingStream<Step, any Error> {
        let start = image.map { FromPicture($0, strength: strength) }
        return AsyncThrowingStream { continuation in
            let task = Task {
                let request: DrawingRequest
                do {
                    let known = try size.map { try drawing.bundle.manifest.size(width: $0.width, height: $0.height) }
                    request = DrawingRequest(prompt: prompt, negativePrompt: negativePrompt, seed: seed, image: start, size: known)
                    try drawing.check(request)
                    try await turn.take()
                } catch {
                    return continuation.finish(throwing: error)
                }
                do {
                    try await draw(request) { continuation.yield($0) }
                    await turn.give()
                    continuation.finish()
                } catch {
                    await turn.give()
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }

    private func draw(_ request: DrawingRequest, tell: @escaping @Sendable (Step) -> Void) async throws {
        let (plan, preview) = (drawing.bundle.manifest.plan, preview)
        let first = try drawing.start(of: request)?.call ?? 0
        let total = callCount - first
        let drawn = try await drawing.draw(request) { event in
            switch event {
            case .began(let component):
                let decoding = component == "vae_decoder"
                tell(Step(stage: Step.Stage(component: component), call: decoding ? total : 0, calls: total))
            case .state(let index, let state):
                // States are as large as the noise in them; what a call is given is what it can be compared with.
                let scale = index + 1 < plan.calls.count ? Float(plan.calls[index + 1].inputScale) : 1
                let scaled = Tensor(shape: state.shape, data: state.data.map { scale * $0 })
                tell(Step(stage: .drawing, call: index + 1 - first, calls: total, preview: preview?.picture(of: scaled)))
            case .called: break
            }
        }
        guard drawn.image.data.allSatisfy(\.isFinite) else {
            throw S2PError.backend(component: "unet or vae_decoder", reason: "it gives numbers that are not finite")
        }
        tell(Step(stage: .finished, call: total, calls: total, picture: try Picture(drawn.image)))
    }
}
