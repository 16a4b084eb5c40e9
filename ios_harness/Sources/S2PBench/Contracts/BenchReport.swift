/// `report.json`: one schema for the host, iOS and Android harnesses (`s2p_runtime.report.BenchReport`).
///
/// A figure that could not be measured is nil (or empty) and `missing` holds the reason under its dotted path; it is never 0.
public struct BenchReport: Contract {
    public static let formatName = "s2p-report"
    /// Version 2 tells compute units and placement. Version 1 is read as well.
    public static let formatVersion = 2

    public enum Harness: String, Codable, Sendable {
        case host, ios, android, linux
    }

    public var format = BenchReport.formatName
    public var version = BenchReport.formatVersion
    public var harness: Harness
    public var harnessVersion: String
    /// UTC, ISO 8601.
    public var created: String
    public var device: DeviceInfo
    public var bundleName: String
    /// Of the bundle's manifest.json.
    public var bundleSHA256: String
    /// Of the bundle; any name, see `isTargetName`.
    public var target: String
    /// Per component: what ran it.
    public var backend: [String: String]
    /// Per program: what it was loaded for, as `ComputeUnit` names it; empty where the engine has no such choice.
    public var computeUnits: [String: String]
    /// Every operator but constants, in the order of the programs.
    public var placement: [PlacedOperator]
    public var `protocol`: BenchProtocol
    public var timingsMS: Timings
    /// Keys text_encoder, unet_call, vae_decoder, image.
    public var summaryMS: [String: Summary]
    public var memory: MemoryFigures
    public var thermal: [ThermalSample]
    public var energy: [EnergySample]
    public var fidelity: [Fidelity]
    public var validity: Validity
    public var missing: [String: String]

    enum CodingKeys: String, CodingKey {
        case format, version, harness
        case harnessVersion = "harness_version"
        case created, device
        case bundleName = "bundle_name"
        case bundleSHA256 = "bundle_sha256"
        case target, backend
        case computeUnits = "compute_units"
        case placement, `protocol`
        case timingsMS = "timings_ms"
        case summaryMS = "summary_ms"
        case memory, thermal, energy, fidelity, validity, missing
    }

    public static func added(since version: Int) -> [String: any Sendable] {
        version < 2 ? ["compute_units": [String: String](), "placement": [String]()] : [:]
    }

    public func validate() throws(ContractViolation) {
        for (name, unit) in computeUnits.sorted(by: { $0.key < $1.key }) {
            try require(ComputeUnit(rawValue: unit) != nil, "compute_units.\(name)", "names no compute unit")
        }
        try require(isSHA256(bundleSHA256), "bundle_sha256", "is no SHA-256")
        try require(isTargetName(target), "target", "is no name of a target")
        try require(`protocol`.warmupRuns >= 0, "protocol.warmup_runs", "must not be negative")
        try require(`protocol`.runs >= 1, "protocol.runs", "must be at least 1")
        try require(`protocol`.cooldownSeconds >= 0, "protocol.cooldown_seconds", "must not be negative")
        try require(`protocol`.minimumSeconds >= 0, "protocol.minimum_seconds", "must not be negative")
        for (name, summary) in summaryMS.sorted(by: { $0.key < $1.key }) {
            try require(summary.count >= 1, "summary_ms.\(name).count", "must be at least 1")
        }
        for (index, sample) in energy.enumerated() {
            let level = sample.batteryLevel ?? 0
            try require((0...1).contains(level), "energy.\(index).battery_level", "must be from 0 to 1")
        }
    }
}

/// One processor of a device.
public enum Processor: String, Codable, Sendable, CaseIterable {
    case neuralEngine = "neural-engine"
    case gpu, cpu, other
}

/// Where the engine means to run one operator of a program.
public struct PlacedOperator: Codable, Equatable, Sendable {
    /// Component of the bundle.
    public var program: String
    public var function: String
    /// As the engine names it.
    public var type: String
    /// Name of its first output.
    @Nullable public var output: String?
    /// Where it is to run; nil: the engine does not tell.
    @Nullable public var preferred: Processor?
    /// Where it could run.
    public var supported: [Processor]
    /// Estimated share of the work of its program, 0 to 1; nil: the engine does not tell.
    @Nullable public var cost: Double?

    public init(
        program: String, function: String, type: String, output: String?, preferred: Processor?, supported: [Processor], cost: Double?
    ) {
        self.program = program
        self.function = function
        self.type = type
        _output = Nullable(wrappedValue: output)
        _preferred = Nullable(wrappedValue: preferred)
        self.supported = supported
        _cost = Nullable(wrappedValue: cost)
    }
}

/// The measured machine.
public struct DeviceInfo: Codable, Equatable, Sendable {
    public var model: String
    public var os: String
    @Nullable public var soc: String?
    @Nullable public var memoryBytes: Int?
    @Nullable public var cores: Int?

    public init(model: String, os: String, soc: String?, memoryBytes: Int?, cores: Int?) {
        self.model = model
        self.os = os
        self.soc = soc
        self.memoryBytes = memoryBytes
        self.cores = cores
    }

    enum CodingKeys: String, CodingKey {
        case model, os, soc
        case memoryBytes = "memory_bytes"
        case cores
    }
}

/// How the measurement is made. The measured images go on past `runs` until `minimumSeconds` have passed.
public struct BenchProtocol: Codable, Equatable, Sendable {
    public var warmupRuns: Int
    public var runs: Int
    /// Rest before the timed images.
    public var cooldownSeconds: Double
    public var minimumSeconds: Double
    @Nullable public var threads: Int?

    public init(warmupRuns: Int = 1, runs: Int = 5, cooldownSeconds: Double = 10, minimumSeconds: Double = 60) {
        self.warmupRuns = warmupRuns
        self.runs = runs
        self.cooldownSeconds = cooldownSeconds
        self.minimumSeconds = minimumSeconds
        _threads = Nullable(wrappedValue: nil)
    }

    enum CodingKeys: String, CodingKey {
        case warmupRuns = "warmup_runs"
        case runs
        case cooldownSeconds = "cooldown_seconds"
        case minimumSeconds = "minimum_seconds"
        case threads
    }
}

/// Raw samples in milliseconds, in the order in which they were taken.
public struct Timings: Codable, Equatable, Sendable {
    /// Load time of each component, compilation included, once.
    public var load: [String: Double] = [:]
    public var textEncoder: [Double] = []
    /// One list per measured image.
    public var unetCall: [[Double]] = []
    public var vaeDecoder: [Double] = []
    /// Prompt to picture.
    public var image: [Double] = []

    public init() {}

    enum CodingKeys: String, CodingKey {
        case load
        case textEncoder = "text_encoder"
        case unetCall = "unet_call"
        case vaeDecoder = "vae_decoder"
        case image
    }
}

/// Nearest-rank percentiles and the mean of the middle 80 per cent, in milliseconds.
public struct Summary: Codable, Equatable, Sendable {
    public var count: Int
    public var p50: Double
    public var p90: Double
    public var p99: Double
    public var trimmedMean: Double

    enum CodingKeys: String, CodingKey {
        case count, p50, p90, p99
        case trimmedMean = "trimmed_mean"
    }
}

/// (seconds since start, bytes), written as `[seconds, bytes]`.
public struct MemorySample: Codable, Equatable, Sendable {
    public var seconds: Double
    public var bytes: Int

    public init(seconds: Double, bytes: Int) {
        self.seconds = seconds
        self.bytes = bytes
    }

    public init(from decoder: any Decoder) throws {
        var container = try decoder.unkeyedContainer()
        seconds = try container.decode(Double.self)
        bytes = try container.decode(Int.self)
        guard container.isAtEnd else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "a sample has two numbers")
        }
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.unkeyedContainer()
        try container.encode(seconds)
        try container.encode(bytes)
    }
}

/// Memory of the process, from a pass of its own.
public struct MemoryFigures: Codable, Equatable, Sendable {
    @Nullable public var baselineBytes: Int?
    @Nullable public var peakBytes: Int?
    public var method: String
    public var samples: [MemorySample]

    public init(baselineBytes: Int?, peakBytes: Int?, method: String, samples: [MemorySample]) {
        self.baselineBytes = baselineBytes
        self.peakBytes = peakBytes
        self.method = method
        self.samples = samples
    }

    enum CodingKeys: String, CodingKey {
        case baselineBytes = "baseline_bytes"
        case peakBytes = "peak_bytes"
        case method, samples
    }
}

/// One reading: seconds since the start, state (nominal, fair, serious, critical) and temperatures by sensor.
public struct ThermalSample: Codable, Equatable, Sendable {
    public var seconds: Double
    @Nullable public var state: String?
    public var celsius: [String: Double]
    @Nullable public var headroom: Double?

    public init(seconds: Double, state: String?, celsius: [String: Double] = [:]) {
        self.seconds = seconds
        self.state = state
        self.celsius = celsius
        _headroom = Nullable(wrappedValue: nil)
    }
}

/// One reading of power or charge.
public struct EnergySample: Codable, Equatable, Sendable {
    public var seconds: Double
    @Nullable public var milliwatts: Double?
    @Nullable public var batteryLevel: Double?

    public init(seconds: Double, milliwatts: Double? = nil, batteryLevel: Double? = nil) {
        self.seconds = seconds
        _milliwatts = Nullable(wrappedValue: milliwatts)
        _batteryLevel = Nullable(wrappedValue: batteryLevel)
    }

    enum CodingKeys: String, CodingKey {
        case seconds, milliwatts
        case batteryLevel = "battery_level"
    }
}

/// The device's own picture against a golden run.
public struct Fidelity: Codable, Equatable, Sendable {
    public var goldenID: String
    /// dB over the range of the golden latents; nil when the two are identical.
    @Nullable public var latentPSNR: Double?
    public var latentMaxAbs: Double
    /// dB of the 8-bit pictures; nil when the two are identical.
    @Nullable public var imagePSNR: Double?
    /// In 8-bit levels.
    @Nullable public var imageMaxAbs: Double?

    enum CodingKeys: String, CodingKey {
        case goldenID = "golden_id"
        case latentPSNR = "latent_psnr_db"
        case latentMaxAbs = "latent_max_abs"
        case imagePSNR = "image_psnr_db"
        case imageMaxAbs = "image_max_abs"
    }
}

/// Conditions of a fair run; nil where the device cannot tell.
public struct Validity: Codable, Equatable, Sendable {
    @Nullable public var unplugged: Bool?
    @Nullable public var lowPowerModeOff: Bool?
    @Nullable public var thermalNominalAtStart: Bool?
    public var minimumDurationMet: Bool
    public var fidelityOK: Bool

    enum CodingKeys: String, CodingKey {
        case unplugged
        case lowPowerModeOff = "low_power_mode_off"
        case thermalNominalAtStart = "thermal_nominal_at_start"
        case minimumDurationMet = "minimum_duration_met"
        case fidelityOK = "fidelity_ok"
    }
}
