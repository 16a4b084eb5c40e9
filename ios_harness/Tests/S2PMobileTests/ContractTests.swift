import Foundation
import Testing

@testable import S2PBench
@testable import S2PMobile

@Suite struct ContractTests {
    @Test func opensTheBundles() throws {
        let replay = try ModelBundle(opening: Fixtures.replay)
        #expect(replay.manifest.latents.shape == [1, 4, 8, 8])
        #expect(replay.manifest.plan.calls.count == 6)
        #expect(replay.manifest.plan.calls[2].states == [Term(index: 1, coefficient: replay.manifest.plan.calls[2].states[0].coefficient)])
        #expect(replay.manifest.golden[1].seed == 4_294_967_301)
        #expect(replay.manifest.quantization.layers.map(\.activationBits) == [nil, 8])
        let ancestral = try ModelBundle(opening: Fixtures.ancestral)
        #expect(ancestral.manifest.target == "executorch")
        #expect(ancestral.manifest.sizes.map { [$0.width, $0.height] } == [[48, 32], [32, 48]])
        #expect(ancestral.manifest.sizes.map(\.method) == [nil, "size_32x48"])
        #expect(ancestral.manifest.conditioning == nil && ancestral.manifest.chunks.isEmpty)
        #expect(ancestral.manifest.latents.shiftFactor == 0.125)
        #expect(ancestral.manifest.latents.mean == [-1.5, 1.75, -1.25, 2.5])
        #expect(ancestral.manifest.latents.std == [8.5, 6.0, 6.5, 5.25])
        #expect(ancestral.manifest.batch == 1)
    }

    @Test func readsTheComputeUnitsOfPrograms() throws {
        let components = try ModelBundle(opening: Fixtures.chunked).manifest.components
        #expect(components["unet_1"]?.computeUnit == .neuralEngine)
        #expect(components["unet_2"]?.computeUnit == .gpu)
        #expect(components["vae_decoder"]?.computeUnit == .all)
        #expect(components["unet_3"]?.computeUnit == nil)
    }

    @Test func readsTheFilesOfProgramsByChip() throws {
        let components = try ModelBundle(opening: Fixtures.chunked).manifest.components
        #expect(components["text_encoder"]?.chips == ["SM8650": "text_encoder.pte"])
        #expect(components["vae_decoder"]?.chips == nil)
    }

    @Test func namesTheUnknownComputeUnit() throws {
        let data = try Fixtures.data("malformed/manifests/compute-unit-unknown.json")
        let error = thrownError { _ = try decodeContract(BundleManifest.self, from: data, name: "m") }
        let line = "m is invalid (components.unet.compute_unit: is not one of neural-engine, gpu, all); get it from its author again"
        #expect(error?.description == line)
    }

    @Test(arguments: Fixtures.index.bundles)
    func refusesMalformedBundle(_ item: Fixtures.MalformedBundle) throws {
        try Fixtures.withCopy(of: Fixtures.replay) { folder in
            if let manifest = item.manifest {
                try Fixtures.data("malformed/\(manifest)").write(to: folder.appendingPathComponent("manifest.json"))
            } else if let edit = item.edit {
                let url = folder.appendingPathComponent(edit[1])
                var content = try Data(contentsOf: url)
                switch edit[0] {
                case "remove": try FileManager.default.removeItem(at: url)
                case "truncate": try content.prefix(3).write(to: url)
                case "flip":
                    content[content.count - 1] ^= 1
                    try content.write(to: url)
                default: Issue.record("unknown edit \(edit)")
                }
            }
            let error = thrownError { _ = try ModelBundle(opening: folder) }
            #expect(error.map { item.kinds.contains($0.kind) } == true, "\(String(describing: error))")
            #expect(error?.description.contains("\n") == false)
        }
    }

    /// The reader knows no names of targets; an engine refuses those that it does not run.
    @Test(arguments: Fixtures.index.engines)
    func refusesABundleForAnotherEngine(_ item: Fixtures.MalformedBundle) throws {
        try Fixtures.withCopy(of: Fixtures.replay) { folder in
            let data = try Fixtures.data("malformed/\(try #require(item.manifest))")
            try data.write(to: folder.appendingPathComponent("manifest.json"))
            let bundle = try ModelBundle(opening: folder)
            let error = thrownError { try bundle.requireTarget("coreml") }
            #expect(error.map { item.kinds.contains($0.kind) } == true, "\(String(describing: error))")
            let line = "replay.s2pmobile is a bundle for \(bundle.manifest.target); this app runs coreml"
            #expect(error?.description.hasPrefix(line) == true)
            try bundle.requireTarget(bundle.manifest.target)
        }
    }

    @Test func namesTheNewerVersion() throws {
        let data = try Fixtures.data("malformed/manifests/version-two-other-fields.json")
        let error = thrownError { _ = try decodeContract(BundleManifest.self, from: data, name: "m") }
        #expect(error?.description == "m has format version 2, this app reads 1; update the app")
    }

    /// Sizes that no memory holds are refused before anything of that size is made.
    @Test(arguments: [
        ("\"max_length\": 16,", "\"max_length\": 1099511627776,", "tokenizer.max_length: must be from 2 to 65536"),
        ("\"channels\": 4,", "\"channels\": 70000,", "latents.channels: must be from 1 to 65536"),
        ("\"height\": 8,\n  \"width\": 8,", "\"height\": 60000,\n  \"width\": 60000,", "latents: are more than 67108864 numbers"),
    ])
    func refusesSizesThatNoMemoryHolds(_ written: String, _ changed: String, _ problem: String) throws {
        let text = try #require(String(data: Fixtures.data("replay.s2pmobile/manifest.json"), encoding: .utf8))
        #expect(text.contains(written))
        let data = Data(text.replacingOccurrences(of: written, with: changed).utf8)
        let error = thrownError { _ = try decodeContract(BundleManifest.self, from: data, name: "m") }
        #expect(error == .invalid(file: "m", problem: problem), "\(String(describing: error))")
    }

    /// Reports come from other machines, too: any target will do.
    @Test(arguments: ["coreml", "tflite", "x", "a-9"])
    func reportsOfAnyTargetOpen(_ name: String) throws {
        let text = try #require(String(data: Fixtures.data("report.json"), encoding: .utf8))
        let data = Data(text.replacingOccurrences(of: "\"coreml\"", with: "\"\(name)\"").utf8)
        #expect(try decodeContract(BenchReport.self, from: data, name: "r").target == name)
    }

    @Test func knowsTheComponentsThatOptionsMayName() throws {
        let chunked = try ModelBundle(opening: Fixtures.chunked)
        #expect(chunked.manifest.componentNames == ["text_encoder", "unet", "vae_decoder"])
        try chunked.requireComponents(["unet", "vae_decoder"])
        #expect(thrownError { try chunked.requireComponents(["time_table"]) }?.kind == "no_component")
        let pooled = try ModelBundle(opening: Fixtures.pooled)
        #expect(pooled.manifest.componentNames == ["text_encoder", "time_table", "unet", "vae_decoder"])
    }

    @Test func readsWhereRunsFromAPictureBegin() throws {
        let manifest = try ModelBundle(opening: Fixtures.picture).manifest
        let starts = try #require(manifest.imageStarts)
        #expect(starts.map(\.call) == [0, 1, 2, 3, 4] && starts.map(\.rows.count) == [0, 2, 2, 2, 2])
        #expect(starts[2].latents == 0.6049793384901669 && starts[2].noise == 0.7962411694957753)
        #expect(starts[2].rows[0].outputs == [Term(index: 2, coefficient: -0.26280222415256416)])
        #expect(try ModelBundle(opening: Fixtures.replay).manifest.imageStarts == nil)
    }

    /// Every rule has a message of its own: a reader that refuses for another reason is found.
    @Test(arguments: [
        ("without-component", "image_starts: goes with a component vae_encoder"),
        ("component-alone", "image_starts: goes with a component vae_encoder"),
        ("fewer", "image_starts: 4 for 5 steps"), ("null", "image_starts: unknown field"),
        ("behind-the-end", "lies outside of the calls"), ("rows-behind-the-end", "lies outside of the calls"),
        ("negative", "lies outside of the calls"), ("look-back", "a row of the plan refers to what this start does not have"),
        ("row-looks-back", "refers to what this start does not have"), ("row-looks-ahead", "refers to what this start does not have"),
        ("row-other-timestep", "something else than the plan"), ("row-other-scale", "something else than the plan"),
        ("unknown-field", "unknown field"),
    ])
    func saysWhatIsWrongWithStarts(_ item: String, _ problem: String) throws {
        let data = try Fixtures.data("malformed/manifests/starts-\(item).json")
        let error = thrownError { _ = try decodeContract(BundleManifest.self, from: data, name: "m") }
        #expect(error?.kind == "invalid" && error?.description.contains(problem) == true, "\(String(describing: error))")
    }

    @Test(arguments: Fixtures.index.reports)
    func refusesMalformedReport(_ item: Fixtures.MalformedFile) throws {
        let data = try Fixtures.data("malformed/\(item.file)")
        let error = thrownError { _ = try decodeContract(BenchReport.self, from: data, name: item.file) }
        #expect(error.map { item.kinds.contains($0.kind) } == true, "\(String(describing: error))")
    }

    @Test func namesTheUnknownField() throws {
        let data = try Fixtures.data("malformed/manifests/unknown-nested-field.json")
        let error = thrownError { _ = try decodeContract(BundleManifest.self, from: data, name: "m") }
        #expect(error == .invalid(file: "m", problem: "plan.calls.2.novelty: unknown field"))
    }

    /// Python's reader is strict: 5.0 is no integer. Whole doubles in fields of doubles stay what they are.
    @Test(arguments: [
        ("\"channels\": 4,", "\"channels\": 4.0,", "latents.channels"),
        ("\"seed\": 20240,", "\"seed\": 2.024e4,", "golden.0.seed"),
        ("\"weight_bits\": 4,", "\"weight_bits\": 4.0,", "quantization.layers.1.weight_bits"),
        ("\"activation_bits\": 8,", "\"activation_bits\": 8.0,", "quantization.layers.1.activation_bits"),
        ("\"max_length\": 16,", "\"max_length\": 16.0,", "tokenizer.max_length"),
    ])
    func refusesAFractionForAnInteger(_ written: String, _ changed: String, _ path: String) throws {
        let text = try #require(String(data: Fixtures.data("replay.s2pmobile/manifest.json"), encoding: .utf8))
        #expect(text.contains(written))
        let data = Data(text.replacingOccurrences(of: written, with: changed).utf8)
        let error = thrownError { _ = try decodeContract(BundleManifest.self, from: data, name: "m") }
        #expect(error == .invalid(file: "m", problem: "\(path): is not an integer"), "\(String(describing: error))")
    }

    /// Integers inside of arrays, optional ones and the version.
    @Test func refusesFractionsInReports() throws {
        let fields = try #require(JSONSerialization.jsonObject(with: Fixtures.data("report.json")) as? [String: Any])
        func kind(_ key: String, _ value: Any, in parent: String? = nil) throws -> String? {
            var changed = fields
            if let parent {
                var inner = try #require(fields[parent] as? [String: Any])
                inner[key] = value
                changed[parent] = inner
            } else {
                changed[key] = value
            }
            let text = try #require(String(data: JSONSerialization.data(withJSONObject: changed), encoding: .utf8))
            let data = Data(text.replacingOccurrences(of: "\"WHOLE\"", with: "2.0").utf8)
            return thrownError { _ = try decodeContract(BenchReport.self, from: data, name: "r") }?.kind
        }
        #expect(try kind("samples", [[0.0, "WHOLE"]], in: "memory") == "invalid")
        #expect(try kind("cores", "WHOLE", in: "device") == "invalid")
        #expect(try kind("threads", "WHOLE", in: "protocol") == "invalid")
        #expect(try kind("version", "WHOLE") == "bad_version")
        #expect(try kind("minimum_seconds", "WHOLE", in: "protocol") == nil)
    }

    @Test(arguments: ["replay", "ancestral", "chunked", "pooled", "picture"].map { "\($0).s2pmobile/manifest.json" })
    func manifestSurvivesReadingAndWriting(_ path: String) throws {
        let data = try Fixtures.data(path)
        let written = try encodeContract(decodeContract(BundleManifest.self, from: data, name: path))
        #expect(try tree(written) == tree(data))
    }

    @Test func reportSurvivesReadingAndWriting() throws {
        let data = try Fixtures.data("report.json")
        let report = try decodeContract(BenchReport.self, from: data, name: "report.json")
        #expect(report.energy[1].milliwatts == 2150)
        #expect(report.memory.samples[1] == MemorySample(seconds: 1, bytes: 350_000_000))
        #expect(report.thermal[1].celsius == ["battery": 31.5])
        #expect(report.computeUnits == ["unet": "neural-engine", "text_encoder": "cpu", "vae_decoder": "gpu"])
        #expect(report.placement.map(\.preferred) == [.neuralEngine, .gpu, .neuralEngine, .cpu, .gpu, nil])
        #expect(report.placement[1].output == "row" && report.placement[1].supported == [.gpu, .cpu])
        #expect(report.placement[1].cost == 0.125 && report.placement[5].output == nil)
        // Every field is written here and by the Python writer: same tree, nulls included.
        #expect(try tree(encodeContract(report)) == tree(data))
    }

    /// Reports from before version 2 say nothing of units and placement, and the same of everything else.
    @Test func readsAReportOfVersion1() throws {
        let old = try decodeContract(BenchReport.self, from: Fixtures.data("report-1.json"), name: "old")
        var new = try decodeContract(BenchReport.self, from: Fixtures.data("report.json"), name: "new")
        #expect(old.version == 2 && old.computeUnits.isEmpty && old.placement.isEmpty)
        (new.computeUnits, new.placement) = ([:], [])
        #expect(old == new)
    }

    @Test func aNewFieldInAnOldReportIsUnknown() throws {
        let data = try Fixtures.data("malformed/reports/version-one-with-units.json")
        let error = thrownError { _ = try decodeContract(BenchReport.self, from: data, name: "r") }
        #expect(error == .invalid(file: "r", problem: "compute_units: unknown in version 1"))
    }

    @Test func doesNotWriteNumbersThatAreNotFinite() throws {
        var report = try decodeContract(BenchReport.self, from: Fixtures.data("report.json"), name: "r")
        report.timingsMS.image = [.nan]
        #expect(thrownError { _ = try encodeContract(report) }?.kind == "invalid")
    }

    @Test func refusesALinkOutOfTheBundle() throws {
        try Fixtures.withCopy(of: Fixtures.replay) { folder in
            let golden = folder.appendingPathComponent("golden")
            let elsewhere = folder.deletingLastPathComponent().appendingPathComponent("elsewhere")
            try FileManager.default.moveItem(at: golden, to: elsewhere)
            try FileManager.default.createSymbolicLink(at: golden, withDestinationURL: elsewhere)
            let error = thrownError { _ = try ModelBundle(opening: folder) }
            #expect(error?.kind == "outside")
        }
    }

    /// `convert --layout apple` makes bundles for another pipeline.
    @Test func saysThatABundleIsInApplesLayout() throws {
        try ModelBundle(opening: Fixtures.replay).requireStepInput()
        try Fixtures.withCopy(of: Fixtures.replay) { folder in
            let url = folder.appendingPathComponent("manifest.json")
            let text = try String(contentsOf: url, encoding: .utf8)
            try Data(text.replacingOccurrences(of: "\"name\": \"step\"", with: "\"name\": \"timestep\"").utf8).write(to: url)
            let bundle = try ModelBundle(opening: folder)
            let error = thrownError { try bundle.requireStepInput() }
            #expect(error?.kind == "usage" && error?.description.contains("Apple's layout") == true)
        }
    }

    @Test func contentKeyFollowsTheContentOnly() throws {
        let original = try ModelBundle(opening: Fixtures.replay)
        let spec = try original.component("unet").spec
        try Fixtures.withCopy(of: Fixtures.replay) { folder in
            let copy = try ModelBundle(opening: folder)
            #expect(copy.contentKey(of: spec) == original.contentKey(of: spec))
        }
        let keys = Set(original.manifest.components.values.map(original.contentKey))
        #expect(keys.count == 3)
    }

    private func tree(_ data: Data) throws -> NSDictionary {
        try #require(JSONSerialization.jsonObject(with: data) as? NSDictionary)
    }
}

@Suite struct SHA256Tests {
    /// Examples of FIPS 180-2, appendix B, and of NIST's "SHA Test Vectors for Hashing Byte-Oriented Messages" (0 bytes).
    @Test(arguments: [
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        ),
    ])
    func knownAnswers(_ message: String, _ digest: String) {
        var portable = PortableSHA256()
        portable.update(Data(message.utf8))
        #expect(SHA256Digest.hex(portable.finalize()) == digest)
        #expect(SHA256Digest.hex(of: Data(message.utf8)) == digest)
    }

    /// FIPS 180-2, B.3.
    @Test func aMillionLetters() {
        let message = Data(repeating: UInt8(ascii: "a"), count: 1_000_000)
        #expect(SHA256Digest.hex(of: message) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
    }

    @Test func piecesGiveTheDigestOfTheWhole() {
        let message = Data((0..<300).map { UInt8(truncatingIfNeeded: $0) })
        let whole = SHA256Digest.hex(of: message)
        for size in [1, 55, 56, 63, 64, 65, 128] {
            var hasher = PortableSHA256()
            for start in stride(from: 0, to: message.count, by: size) { hasher.update(message[start..<min(start + size, 300)]) }
            #expect(SHA256Digest.hex(hasher.finalize()) == whole)
        }
    }
}
