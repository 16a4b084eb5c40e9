import Foundation

@testable import S2PMobile

/// The toy model of `tests/fixtures/toy_model.py` as an engine: every function is a program that takes tensors of its own shapes alone.
/// Nothing is rounded to levels, as in the recorded `fp_latents`.
actor ToyProgram: NamedProgram {
    nonisolated let name: String
    nonisolated let spec: ComponentSpec
    private let source: ProgramSource
    private let calls: Int
    private let log: ToyLog

    init(_ source: ProgramSource, calls: Int, log: ToyLog) {
        (name, spec, self.source, self.calls, self.log) = (source.name, source.spec, source, calls, log)
    }

    /// As the log calls it: `unet`, and for another picture size than the first `unet.size_32x48`.
    private nonisolated var title: String { [name, source.function].compactMap { $0 }.joined(separator: ".") }

    func load() async throws { await log.load(title) }
    func unload() async { await log.unload(title) }

    func run(_ inputs: [String: ProgramInput], outputs: [String]) async throws -> [String: Tensor] {
        guard await log.isLoaded(title) else { throw S2PError.notRecorded(what: "\(title), which is not loaded") }
        await log.take(title, inputs)
        func floats(_ input: String) throws -> Tensor {
            guard case .floats(let tensor)? = inputs[input], let port = spec.inputs.first(where: { $0.name == input }) else {
                throw S2PError.notRecorded(what: input)
            }
            return try tensor.checked(input, shape: port.shape)
        }
        func integers(_ input: String) throws -> [Int] {
            guard case .integers(let numbers)? = inputs[input] else { throw S2PError.notRecorded(what: input) }
            return numbers.map { Int($0) }
        }
        switch source.part {
        case "text_encoder" where outputs == ["last_hidden_state"]:
            return ["last_hidden_state": Self.embedded([try integers("input_ids")])]
        case "text_encoder":
            let (ids, second) = (try integers("input_ids"), try integers("second_input_ids"))
            return ["hidden_states": Self.embedded([ids, second]), "pooled_text": Self.pooled(second)]
        case "time_table":
            return ["time_table": Self.timeTable(try floats("pooled_text"), try floats("time_ids"), calls: calls)]
        case "unet":
            let table = spec.inputs.contains { $0.name == "time_table" } ? try floats("time_table") : nil
            let (sample, text) = (try floats("sample"), try floats("encoder_hidden_states"))
            return ["noise_pred": Self.unet(sample, call: try integers("step")[0], text, table)]
        case "vae_decoder":
            return ["image": Self.decoded(try floats("latents"))]
        default:
            return ["moments": Self.encoded(try floats("image"), channels: 4)]
        }
    }

    /// Any whole number above 0 as one of 256 numbers from -1 to below 1.
    private static func level(_ number: Int) -> Float { Float(number % 256 - 128) / 128 }

    /// [1, N, 8] of a text; of two encoders one beside the other.
    private static func embedded(_ texts: [[Int]]) -> Tensor {
        var data: [Float] = []
        for place in texts[0].indices {
            for ids in texts {
                for factor in 3..<11 { data.append(level((ids[place] + 1) * factor)) }
            }
        }
        return Tensor(shape: [1, texts[0].count, 8 * texts.count], data: data)
    }

    private static func pooled(_ ids: [Int]) -> Tensor {
        let sum = ids.reduce(0, +)
        return Tensor(shape: [1, 4], data: (1...4).map { level(sum * $0) })
    }

    private static func timeTable(_ pooled: Tensor, _ timeIDs: Tensor, calls: Int) -> Tensor {
        var data: [Float] = []
        for branch in 0..<pooled.shape[0] {
            var numbers = 0
            for place in 0..<6 { numbers += (place + 1) * Int(timeIDs.data[6 * branch + place]) }
            for call in 0..<calls {
                for place in 0..<4 {
                    let whole = Int(pooled.data[4 * branch + place] * 128) + 7 * call + numbers
                    // The remainder of 64, never below 0.
                    data.append(Float(whole & 63) / 64)
                }
            }
        }
        return Tensor(shape: [pooled.shape[0], calls, 4], data: data)
    }

    private static func unet(_ sample: Tensor, call: Int, _ text: Tensor, _ table: Tensor?) -> Tensor {
        let row = sample.data.count / sample.shape[0], width = text.shape[2]
        let data = sample.data.enumerated().map { index, value in
            let branch = index / row
            var bias = Double(text.data[(branch * text.shape[1] + 1 + call % 15) * width + call % 8])
            if let table { bias += Double(table.data[(branch * table.shape[1] + call) * table.shape[2]]) }
            let state = Double(value)
            return Float(state - (bias + 0.25 * Double(call)) / (1 + state * state))
        }
        return Tensor(shape: sample.shape, data: data)
    }

    private static func decoded(_ latents: Tensor) -> Tensor {
        let (height, width) = (latents.shape[2], latents.shape[3])
        var data: [Float] = []
        for channel in 0..<3 {
            for y in 0..<8 * height {
                for x in 0..<8 * width {
                    let value = latents.data[(channel * height + y / 8) * width + x / 8]
                    data.append(value / (1 + abs(value)))
                }
            }
        }
        return Tensor(shape: [1, 3, 8 * height, 8 * width], data: data)
    }

    private static func encoded(_ image: Tensor, channels: Int) -> Tensor {
        let (height, width) = (image.shape[2] / 8, image.shape[3] / 8)
        var data: [Float] = []
        for channel in 0..<channels {
            for y in 0..<height {
                let row = (channel % 3 * 8 * height + 8 * y) * 8 * width
                for x in 0..<width { data.append(0.5 * image.data[row + 8 * x]) }
            }
        }
        return Tensor(shape: [1, 2 * channels, height, width], data: data + [Float](repeating: 0, count: data.count))
    }
}

/// What toy programs did.
actor ToyLog {
    /// Loads and releases, in order.
    private(set) var notes: [String] = []
    private(set) var alive: Set<String> = []
    /// The most programs of U-Net and VAE for different picture sizes that were loaded together.
    private(set) var mostSizes = 0
    /// The last input of a name.
    private(set) var inputs: [String: Tensor] = [:]

    func isLoaded(_ title: String) -> Bool { alive.contains(title) }

    func load(_ title: String) {
        guard alive.insert(title).inserted else { return }
        notes.append("load \(title)")
        let sized = alive.filter { $0.hasPrefix("unet") || $0.hasPrefix("vae") }
        mostSizes = max(mostSizes, Set(sized.map { $0.split(separator: ".").dropFirst().joined() }).count)
    }

    func unload(_ title: String) {
        if alive.remove(title) != nil { notes.append("unload \(title)") }
    }

    func take(_ title: String, _ inputs: [String: ProgramInput]) {
        for (name, input) in inputs {
            if case .floats(let tensor) = input { self.inputs[name] = tensor }
        }
    }

    func forget() { notes = [] }
}

extension ComponentSet {
    /// Of a bundle in the fixtures, whatever engine it was made for.
    init(toyOf bundle: ModelBundle, log: ToyLog) throws {
        let calls = bundle.manifest.plan.calls.count
        try self.init(of: bundle, chunks: .resident) { ToyProgram($0, calls: calls, log: log) } describe: { _, _ in
            EngineDescription(backend: [:])
        }
    }
}
