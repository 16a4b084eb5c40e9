import Foundation

extension NamedProgram {
    /// Runs once for one output.
    package func predict(_ inputs: [String: ProgramInput], output: String) async throws -> Tensor {
        guard let tensor = try await run(inputs, outputs: [output])[output] else {
            throw S2PError.backend(component: name, reason: "the program has no output \(output)")
        }
        return tensor
    }
}

/// A component that is one program.
package protocol ProgramComponent: PipelineComponent {
    var program: any NamedProgram { get }
}

extension ProgramComponent {
    package func load() async throws { try await program.load() }
    package func unload() async { await program.unload() }
    package func firstLoad() async -> FirstLoad? { await program.firstLoad() }
}

/// A text encoder, or both of SDXL, as a program.
package struct ProgramTextEncoder: TextEncoding, ProgramComponent {
    package let program: any NamedProgram

    package init(program: any NamedProgram) { self.program = program }

    package func encode(_ tokenIDs: [Int32]) async throws -> Tensor {
        try await program.predict(["input_ids": .integers(tokenIDs)], output: "last_hidden_state")
    }

    package func encodePooled(_ tokenIDs: [Int32], second: [Int32]) async throws -> (hidden: Tensor, pooled: Tensor) {
        let inputs: [String: ProgramInput] = ["input_ids": .integers(tokenIDs), "second_input_ids": .integers(second)]
        let outputs = try await program.run(inputs, outputs: ["hidden_states", "pooled_text"])
        guard let hidden = outputs["hidden_states"], let pooled = outputs["pooled_text"] else {
            throw S2PError.backend(component: program.name, reason: "it gives no pooled text")
        }
        return (hidden, pooled)
    }
}

/// What makes a prompt's time table, as a program.
package struct ProgramTimeTable: TimeTabling, ProgramComponent {
    package let program: any NamedProgram

    package init(program: any NamedProgram) { self.program = program }

    package func timeTable(pooled: Tensor, timeIDs: Tensor) async throws -> Tensor {
        try await program.predict(["pooled_text": .floats(pooled), "time_ids": .floats(timeIDs)], output: "time_table")
    }
}

/// A VAE encoder as a program.
package struct ProgramEncoder: ImageEncoding, ProgramComponent {
    package let program: any NamedProgram

    package init(program: any NamedProgram) { self.program = program }

    /// By the places of its ports: Apple's layout has other names for them.
    package func encode(_ image: Tensor) async throws -> Tensor {
        guard let input = program.spec.inputs.first, let output = program.spec.outputs.first else {
            throw S2PError.backend(component: program.name, reason: "the manifest names no input and output of it")
        }
        return try await program.predict([input.name: .floats(image)], output: output.name)
    }
}

/// A VAE decoder as a program.
package struct ProgramDecoder: ImageDecoding, ProgramComponent {
    package let program: any NamedProgram

    package init(program: any NamedProgram) { self.program = program }

    package func decode(_ latents: Tensor) async throws -> Tensor {
        try await program.predict(["latents": .floats(latents)], output: "image")
    }
}

/// What an engine makes a program of: a component of a bundle, at a picture size where it has one.
package struct ProgramSource: Sendable {
    /// What converters call the function that a program has anyway.
    package static let defaultFunction = "main"

    /// In the manifest.
    package let name: String
    /// The part that it plays: programs of one U-Net are `unet` together.
    package let part: String
    /// With the inputs and outputs of the function.
    package let spec: ComponentSpec
    package let url: URL
    /// Of the program; nil: the one that it has anyway.
    package let function: String?

    /// - Throws: `noComponent`; `outside`.
    init(_ name: String, part: String, of bundle: ModelBundle, at size: PictureSize?) throws(S2PError) {
        let (spec, url) = try bundle.component(name)
        self.name = name
        self.part = part
        self.spec = size.map(spec.resized) ?? spec
        self.url = url
        function = size?.method
    }
}

extension ComponentSet {
    /// The programs of a bundle as its components, those of U-Net and VAE once for each picture size.
    package init<Program: NamedProgram>(
        of bundle: ModelBundle, chunks: ChunkPolicy, program: (ProgramSource) throws -> Program,
        describe: @escaping @Sendable (_ programs: BundlePrograms<Program>, _ placement: Bool) async -> EngineDescription
    ) throws {
        let manifest = bundle.manifest
        func make(_ name: String, part: String? = nil, at size: PictureSize? = nil) throws -> Program {
            try program(ProgramSource(name, part: part ?? name, of: bundle, at: size))
        }
        func parts(at size: PictureSize) throws -> (sized: SizedComponents, unet: [Program], decoder: Program) {
            let encoder = try manifest.imageStarts.map { _ in try make("vae_encoder", at: size) }
            let unet = try manifest.unetPrograms.map { try make($0, part: "unet", at: size) }
            let decoder = try make("vae_decoder", at: size)
            let sized = SizedComponents(
                encoder: encoder.map { ProgramEncoder(program: $0) }, unet: ProgramUNet(programs: unet, policy: chunks),
                decoder: ProgramDecoder(program: decoder)
            )
            return (sized, unet, decoder)
        }
        let first = try parts(at: manifest.sizes[0])
        let programs = BundlePrograms(
            text: try make("text_encoder"), table: try manifest.conditioning.map { _ in try make("time_table") }, unet: first.unet,
            decoder: first.decoder
        )
        self.init(
            encoder: first.sized.encoder, textEncoder: ProgramTextEncoder(program: programs.text),
            timeTable: programs.table.map { ProgramTimeTable(program: $0) }, unet: first.sized.unet, decoder: first.sized.decoder,
            others: try manifest.sizes.dropFirst().map { try parts(at: $0).sized }
        ) { placement in await describe(programs, placement) }
    }
}

/// The programs of every drawing by the parts that they play, at the first picture size. The encoder is none: reports tell of drawings
/// from noise.
package struct BundlePrograms<Program: NamedProgram>: Sendable {
    package let text: Program
    /// Where the time table belongs to the prompt.
    package let table: Program?
    /// In the order in which they run.
    package let unet: [Program]
    package let decoder: Program

    /// In the order of use.
    package var all: [Program] { [text] + (table.map { [$0] } ?? []) + unet + [decoder] }
}

extension EngineDescription {
    /// Adds what ran a program, in words. Programs of one U-Net have one text together, under `unet`.
    package mutating func add<Program: NamedProgram>(_ words: String, of program: Program, among programs: BundlePrograms<Program>) {
        guard programs.unet.contains(where: { $0.name == program.name }) else {
            backend[program.name] = words
            return
        }
        let own = programs.unet.count == 1 ? words : "\(program.name): \(words)"
        backend["unet"] = [backend["unet"], own].compactMap { $0 }.joined(separator: "; ")
    }
}
