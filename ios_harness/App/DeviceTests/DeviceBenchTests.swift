import S2PBench
import S2PBenchCoreML
import S2PBenchProbes
import XCTest

/// Measures every bundle in the app's Documents folder, without the screen. Reports lie beside the bundles.
///
///     xcodebuild test -scheme S2PBenchApp -destination 'platform=iOS,id=UDID' DEVELOPMENT_TEAM=... \
///         TEST_RUNNER_S2P_BENCH_OPTIONS='--runs 3 --minimum 0'
final class DeviceBenchTests: XCTestCase {
    func testBundlesDrawTheirGoldenPictures() async throws {
        let documents = URL.documentsDirectory
        let bundles = HeadlessRun.bundles(in: documents)
        try XCTSkipIf(bundles.isEmpty, "copy a .s2pmobile folder into the app's Documents folder first (docs/devices.md)")
        let words = ProcessInfo.processInfo.environment["S2P_BENCH_OPTIONS"]?.split(separator: " ").map(String.init) ?? []
        for bundle in bundles {
            let out = bundle.replacingOccurrences(of: ".s2pmobile", with: ".report.json")
            let options = try RunOptions(arguments: ["run", bundle, "--out", out] + words)
            let status = await HeadlessRun.perform(
                options, documents: documents, probes: await DeviceProbes.current(),
                makeComponents: { try await CoreMLBackend.components(of: $0, options: $1) }
            )
            let error = try? String(contentsOf: documents.appending(path: HeadlessRun.errorName), encoding: .utf8)
            XCTAssertEqual(status, 0, "\(bundle): \(error ?? "another picture than the golden one, see \(out)")")
            add(XCTAttachment(contentsOfFile: documents.appending(path: out)))
        }
    }
}
