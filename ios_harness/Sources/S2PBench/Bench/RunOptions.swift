import Foundation

/// What to do, read from a command line or from the arguments and environment that an app was launched with.
public struct RunOptions: Equatable, Sendable {
    public enum Command: Equatable, Sendable {
        /// Measure and write a report.
        case run
        /// Draw one picture.
        case draw(prompt: String, seed: UInt64)
    }

    public var command: Command
    /// Path, or name in the app's Documents folder.
    public var bundle: String
    public var settings = BenchProtocol()
    /// nil: staged when memory is short.
    public var residency: Residency?
    /// Of every component, in the place of what the manifest says.
    public var unit: ComputeUnit?
    /// Of single components; these come first.
    public var units: [String: ComputeUnit] = [:]
    public var out: String?
    /// Golden pictures as this device drew them are written here.
    public var pictures: String?
    public var minimumLatentPSNR = Fidelity.minimumLatentPSNR
    /// Of a U-Net in several programs.
    public var chunks = ChunkPolicy.resident
    public var replay = false

    public static let usage = """
        s2p-bench run BUNDLE [options]            measure and write a report
        s2p-bench draw BUNDLE PROMPT [options]    draw one picture as PNG

        --out FILE            report (run, default report.json) or picture (draw, default picture.png)
        --runs N              measured pictures, at least (5)
        --warmup N            pictures before them (1)
        --cooldown SECONDS    rest before the measured pictures (10)
        --minimum SECONDS     measure at least this long (60)
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
    public init(arguments: [String]) throws(BenchError) {
        var words: [String] = []
        var seed: UInt64 = 0
        var rest = arguments[...]
        settings = BenchProtocol()
        bundle = ""
        command = .run
        while let argument = rest.popFirst() {
            func value() throws(BenchError) -> String {
                guard let next = rest.popFirst() else { throw .usage("\(argument) needs a value; see --help") }
                return next
            }
            func number<N: LosslessStringConvertible & Comparable>(atLeast minimum: N) throws(BenchError) -> N {
                let text = try value()
                guard let number = N(text), number >= minimum, Double("\(number)")?.isFinite == true else {
                    throw .usage("\(argument) \(text) is not a number of at least \(minimum); see --help")
                }
                return number
            }
            switch argument {
            case "--out": out = try value()
            case "--runs": settings.runs = try number(atLeast: 1)
            case "--warmup": settings.warmupRuns = try number(atLeast: 0)
            case "--cooldown": settings.cooldownSeconds = try number(atLeast: 0)
            case "--minimum": settings.minimumSeconds = try number(atLeast: 0)
            case "--min-psnr": minimumLatentPSNR = try number(atLeast: 0)
            case "--seed": seed = try number(atLeast: 0)
            case "--compute-unit": try addUnit(value())
            case "--stage": residency = .staged
            case "--no-stage": residency = .resident
            case "--pictures": pictures = try value()
            case "--release-chunks": chunks = .released
            case "--replay": replay = true
            default:
                guard !argument.hasPrefix("--") else { throw .usage("unknown option \(argument); see --help") }
                words.append(argument)
            }
        }
        switch (words.first, words.count) {
        case ("run", 2): command = .run
        case ("draw", 3): command = .draw(prompt: words[2], seed: seed)
        default: throw .usage("give run BUNDLE or draw BUNDLE PROMPT; see --help")
        }
        bundle = words[1]
    }

    /// Options of an app launched to measure without its screen; nil when it was opened by a person.
    ///
    /// Either the launch arguments hold `--headless` followed by the words of `init(arguments:)`, or the environment
    /// variable `S2P_BENCH` holds them as a JSON list of strings.
    public static func headless(arguments: [String], environment: [String: String]) throws(BenchError) -> RunOptions? {
        if let place = arguments.firstIndex(of: "--headless") {
            return try RunOptions(arguments: Array(arguments[(place + 1)...]))
        }
        guard let text = environment["S2P_BENCH"] else { return nil }
        guard let words = try? JSONDecoder().decode([String].self, from: Data(text.utf8)) else {
            throw .usage("S2P_BENCH is not a JSON list of strings; see docs/devices.md")
        }
        return try RunOptions(arguments: words)
    }

    /// What a program is loaded for: as the options say, else as the manifest says, else the engine's own choice.
    ///
    /// - Parameters:
    ///   - component: as options name it; programs of one U-Net are `unet` together.
    ///   - spec: the program's.
    ///   - choice: the engine's own.
    public func computeUnit(for component: String, _ spec: ComponentSpec, choice: ComputeUnit) -> ComputeUnit {
        units[component] ?? unit ?? spec.computeUnit ?? choice
    }

    private mutating func addUnit(_ text: String) throws(BenchError) {
        let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        guard let name = parts.last, let unit = ComputeUnit(rawValue: name) else {
            let known = ComputeUnit.allCases.map(\.rawValue).joined(separator: ", ")
            throw .usage("--compute-unit \(text) names no compute unit; choose \(known)")
        }
        if parts.count == 2 { units[parts[0]] = unit } else { self.unit = unit }
    }
}
