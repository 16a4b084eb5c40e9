import Foundation
import S2PMobile

/// What to do, read from a command line or from the arguments and environment that an app was launched with.
package struct RunOptions: Equatable, Sendable {
    package enum Command: Equatable, Sendable {
        /// Measure and write a report.
        case run
        /// Measure memory alone and put it into the report of an earlier launch.
        case memory
        /// Draw one picture.
        case draw(prompt: String, seed: UInt64)
    }

    package var command: Command
    /// Path, or name in the app's Documents folder.
    package var bundle: String
    package var settings = BenchProtocol()
    /// nil: staged when memory is short.
    package var residency: Residency?
    /// Of every component, in the place of what the manifest says.
    package var unit: ComputeUnit?
    /// Of single components; these come first.
    package var units: [String: ComputeUnit] = [:]
    package var out: String?
    /// Golden pictures as this device drew them are written here.
    package var pictures: String?
    package var minimumLatentPSNR = Fidelity.minimumLatentPSNR
    /// Of a U-Net in several programs.
    package var chunks = ChunkPolicy.resident
    package var replay = false
    /// At most so long a warm device is waited for.
    package var coolingSeconds = 600.0

    /// What the engine is told.
    package var engine: EngineOptions { EngineOptions(unit: unit, units: units, chunks: chunks) }

    package static let usage = """
        s2p-bench run BUNDLE [options]            measure and write a report
        s2p-bench memory BUNDLE [options]         measure memory alone, in this process, and put it into the report that run wrote
        s2p-bench draw BUNDLE PROMPT [options]    draw one picture as PNG

        --out FILE            report (run and memory, default report.json) or picture (draw, default picture.png)
        --runs N              measured pictures, at least (5)
        --warmup N            pictures before them (1)
        --cooldown SECONDS    rest before the measured pictures (10)
        --minimum SECONDS     measure at least this long (60)
        --wait-cool SECONDS   wait at most this long for a warm device (600)
        --min-psnr DB         fidelity that counts as the same picture (30)
        --compute-unit [NAME=]UNIT
                              neural-engine, gpu, all or cpu, for every component or for one; what the bundle says when left out
        --stage, --no-stage   load and release each component per picture, or never (by free memory)
        --release-chunks      of a U-Net in several programs, load each for every call and release it
        --pictures FOLDER     write the drawn golden pictures there (run)
        --seed N              of the noise (draw, 0)
        --replay              answer from the golden run in place of the model (always so without Core ML)
        """

    /// Parses `run BUNDLE ...` or `draw BUNDLE PROMPT ...`.
    ///
    /// - Throws: `usage`.
    package init(arguments: [String]) throws(S2PError) {
        var words: [String] = []
        var seed: UInt64 = 0
        var rest = arguments[...]
        settings = BenchProtocol()
        bundle = ""
        command = .run
        while let argument = rest.popFirst() {
            func value() throws(S2PError) -> String {
                guard let next = rest.popFirst() else { throw .usage("\(argument) needs a value", "see --help") }
                return next
            }
            func number<N: LosslessStringConvertible & Comparable>(atLeast minimum: N) throws(S2PError) -> N {
                let text = try value()
                guard let number = N(text), number >= minimum, Double("\(number)")?.isFinite == true else {
                    throw .usage("\(argument) \(text) is not a number of at least \(minimum)", "see --help")
                }
                return number
            }
            switch argument {
            case "--out": out = try value()
            case "--runs": settings.runs = try number(atLeast: 1)
            case "--warmup": settings.warmupRuns = try number(atLeast: 0)
            case "--cooldown": settings.cooldownSeconds = try number(atLeast: 0)
            case "--minimum": settings.minimumSeconds = try number(atLeast: 0)
            case "--wait-cool": coolingSeconds = try number(atLeast: 0)
            case "--min-psnr": minimumLatentPSNR = try number(atLeast: 0)
            case "--seed": seed = try number(atLeast: 0)
            case "--compute-unit": try addUnit(value())
            case "--stage": residency = .staged
            case "--no-stage": residency = .resident
            case "--pictures": pictures = try value()
            case "--release-chunks": chunks = .released
            case "--replay": replay = true
            default:
                guard !argument.hasPrefix("--") else { throw .usage("unknown option \(argument)", "see --help") }
                words.append(argument)
            }
        }
        switch (words.first, words.count) {
        case ("run", 2): command = .run
        case ("memory", 2): command = .memory
        case ("draw", 3): command = .draw(prompt: words[2], seed: seed)
        default: throw .usage("give run BUNDLE, memory BUNDLE or draw BUNDLE PROMPT", "see --help")
        }
        bundle = words[1]
    }

    /// Options of an app launched to measure without its screen; nil when it was opened by a person.
    ///
    /// Either the launch arguments hold `--headless` followed by the words of `init(arguments:)`, or the environment
    /// variable `S2P_BENCH` holds them as a JSON list of strings.
    package static func headless(arguments: [String], environment: [String: String]) throws(S2PError) -> RunOptions? {
        if let place = arguments.firstIndex(of: "--headless") {
            return try RunOptions(arguments: Array(arguments[(place + 1)...]))
        }
        guard let text = environment["S2P_BENCH"] else { return nil }
        guard let words = try? JSONDecoder().decode([String].self, from: Data(text.utf8)) else {
            throw .usage("S2P_BENCH is not a JSON list of strings", "see docs/devices.md")
        }
        return try RunOptions(arguments: words)
    }

    private mutating func addUnit(_ text: String) throws(S2PError) {
        let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        guard let name = parts.last, let unit = ComputeUnit(rawValue: name) else {
            let known = ComputeUnit.allCases.map(\.rawValue).joined(separator: ", ")
            throw .usage("--compute-unit \(text) names no compute unit", "choose \(known)")
        }
        if parts.count == 2 { units[parts[0]] = unit } else { self.unit = unit }
    }
}
