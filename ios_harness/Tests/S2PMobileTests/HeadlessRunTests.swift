import Foundation
import S2PBenchProbes
import Testing

@testable import S2PBench
@testable import S2PMobile

@Suite struct HeadlessRunTests {
    private static let quick = ["--runs", "1", "--warmup", "0", "--cooldown", "0", "--minimum", "0"]

    private func perform(_ words: [String], in documents: URL) async throws -> Int32 {
        let options = try RunOptions(arguments: words)
        return await HeadlessRun.perform(options, documents: documents, probes: await DeviceProbes.current()) { bundle, _ in
            try Replay.components(of: bundle)
        }
    }

    private func makeDocuments() throws -> URL {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("documents-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try FileManager.default.copyItem(at: Fixtures.replay, to: folder.appendingPathComponent("replay.s2pmobile"))
        return folder
    }

    @Test func writesTheReportIntoDocuments() async throws {
        let documents = try makeDocuments()
        defer { try? FileManager.default.removeItem(at: documents) }
        #expect(HeadlessRun.bundles(in: documents) == ["replay.s2pmobile"])
        try Data("old".utf8).write(to: documents.appendingPathComponent("error.txt"))
        #expect(try await perform(["run", "replay.s2pmobile", "--pictures", "pictures"] + Self.quick, in: documents) == 0)
        let data = try Data(contentsOf: documents.appendingPathComponent("report.json"))
        let report = try decodeContract(BenchReport.self, from: data, name: "report.json")
        #expect(report.bundleName == "replay" && report.validity.fidelityOK)
        #expect(FileManager.default.fileExists(atPath: documents.appendingPathComponent("pictures/first.png").path))
        #expect(!FileManager.default.fileExists(atPath: documents.appendingPathComponent("error.txt").path))
    }

    /// The words that sdk/s2p_mobile/devices/ios.py looks for.
    @Test func tellsADriverWhereItStands() {
        #expect(BenchPhase.allCases.compactMap { HeadlessRun.consoleLine(.phase($0)) } == [
            "s2p phase memory", "s2p phase fidelity", "s2p phase warm-up", "s2p phase cool-down", "s2p phase timing",
            "s2p phase finished",
        ])
        #expect(HeadlessRun.consoleLine(.picture(milliseconds: 812.5)) == "s2p picture 812.5")
        #expect(HeadlessRun.consoleLine(.unetCall(index: 1, milliseconds: 2)) == nil)
    }

    @Test func saysWhatIsWrongInOneLine() async throws {
        let documents = try makeDocuments()
        defer { try? FileManager.default.removeItem(at: documents) }
        try Data("old".utf8).write(to: documents.appendingPathComponent("report.json"))
        #expect(try await perform(["run", "absent.s2pmobile"] + Self.quick, in: documents) == 2)
        let text = try String(contentsOf: documents.appendingPathComponent("error.txt"), encoding: .utf8)
        #expect(text.hasPrefix("error: ") && text.contains("does not exist") && text.filter(\.isNewline).count == 1)
        #expect(!FileManager.default.fileExists(atPath: documents.appendingPathComponent("report.json").path))
    }

    /// A bundle is no output: it stays, and the mistake is told.
    @Test(arguments: [
        ["--out", "replay.s2pmobile"], ["--out", "replay.s2pmobile/manifest.json"], ["--pictures", "replay.s2pmobile"], ["--out", "folder"],
    ])
    func keepsABundleThatIsNamedAsOutput(_ words: [String]) async throws {
        let documents = try makeDocuments()
        defer { try? FileManager.default.removeItem(at: documents) }
        let folder = documents.appendingPathComponent("folder")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        #expect(try await perform(["run", "replay.s2pmobile"] + Self.quick + words, in: documents) == 2)
        _ = try ModelBundle(opening: documents.appendingPathComponent("replay.s2pmobile"))
        #expect(FileManager.default.fileExists(atPath: folder.path))
        let text = try String(contentsOf: documents.appendingPathComponent("error.txt"), encoding: .utf8)
        #expect(text.hasPrefix("error: ") && text.contains("; name a"))
    }

    /// What is not there cannot be opened, and costs the earlier report nothing else than itself.
    @Test func memoryOfALaunchOfItsOwnCompletesTheReport() async throws {
        let documents = try makeDocuments()
        defer { try? FileManager.default.removeItem(at: documents) }
        #expect(try await perform(["memory", "replay.s2pmobile"], in: documents) == 2)
        #expect(try await perform(["run", "replay.s2pmobile"] + Self.quick, in: documents) == 0)
        let file = documents.appendingPathComponent("report.json")
        let first = try decodeContract(BenchReport.self, from: Data(contentsOf: file), name: "first")
        #expect(first.memory.ownLaunch == false)
        #expect(try await perform(["memory", "replay.s2pmobile"], in: documents) == 0)
        var second = try decodeContract(BenchReport.self, from: Data(contentsOf: file), name: "second")
        #expect(second.memory.ownLaunch == true && second.memory.samples.count >= 2)
        second.memory = first.memory
        #expect(second == first)
        // A report of another bundle is left alone.
        try FileManager.default.copyItem(at: Fixtures.chunked, to: documents.appendingPathComponent("chunked.s2pmobile"))
        #expect(try await perform(["memory", "chunked.s2pmobile"], in: documents) == 2)
        #expect(try decodeContract(BenchReport.self, from: Data(contentsOf: file), name: "third").memory.ownLaunch == true)
    }

    @Test func chartsStandStillWhilePicturesAreMeasured() {
        var charts = BenchCharts()
        charts.add(.phase(.warmUp))
        #expect(charts.mayShow)
        charts.add(.phase(.timing))
        charts.add(.unetCall(index: 0, milliseconds: 20))
        #expect(!charts.mayShow && charts.calls.map(\.y) == [20])
        charts.add(.phase(.finished))
        #expect(charts.mayShow && charts.calls.count == 1)
    }

    @Test func drawsAPrompt() async throws {
        let documents = try makeDocuments()
        defer { try? FileManager.default.removeItem(at: documents) }
        let words = ["draw", "replay.s2pmobile", "a red cat in a blue hat", "--seed", "20240"]
        #expect(try await perform(words, in: documents) == 0)
        #expect(try Data(contentsOf: documents.appendingPathComponent("picture.png")).starts(with: [0x89, 0x50, 0x4E, 0x47]))
    }
}
