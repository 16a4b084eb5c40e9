import S2PBenchApp
import XCTest

/// Measures every bundle in the app's Documents folder, without the screen. Reports lie beside the bundles.
///
///     xcodebuild test -scheme S2PBench -destination 'platform=iOS,id=UDID' DEVELOPMENT_TEAM=... \
///         TEST_RUNNER_S2P_BENCH_OPTIONS='--runs 3 --minimum 0'
final class DeviceBenchTests: XCTestCase {
    func testBundlesDrawTheirGoldenPictures() async throws {
        let words = ProcessInfo.processInfo.environment["S2P_BENCH_OPTIONS"]?.split(separator: " ").map(String.init) ?? []
        let outcomes = try await BenchAll.measure(words: words)
        try XCTSkipIf(outcomes.isEmpty, "copy a .s2pmobile folder into the app's Documents folder first (docs/devices.md)")
        for outcome in outcomes {
            XCTAssertNil(outcome.problem, outcome.bundle)
            if FileManager.default.fileExists(atPath: outcome.report.path) { add(XCTAttachment(contentsOfFile: outcome.report)) }
        }
    }
}
