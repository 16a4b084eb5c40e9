import S2PMobile

/// `report.json`: one schema for the host, iOS and Android harnesses (`s2p_runtime.report.BenchReport`).
///
/// A figure that could not be measured is nil (or empty) and `missing` holds the reason under its dotted path; it is never 0.
package struct BenchReport: Contract {
    package static let formatName = "s2p-report"
    /// Version 2 tells compute units and placement. Version 1 is read as well.
    package static let formatVersion = 2

    package enum Harness: String, Codable, Sendable {
        case host, ios, android, linux
    }

    package var format = BenchReport.formatName
    package var version = BenchReport.formatVersion
    package var harness: Harness
    package var harnessVersion: String
    /// UTC, ISO 8601.
    package var created: String
    package var device: DeviceInfo
    package var bundleName: String
    /// Of the bundle's manifest.json.
    package var bundleSHA256: String
    /// Of the bundle; any name, see `isTargetName`.
    package var target: String
    /// Per component: what ran it.
    package var backend: [String: String]
    /// Per program: what it was loaded for, as `ComputeUnit` names it; empty where the engine has no such choice.
    package var computeUnits: [String: String]
    /// Every operator but constants, in the order of the programs.
    package var placement: [PlacedOperator]
    package var `protocol`: BenchProtocol
    package var timingsMS: Timings
    /// Keys text_encoder, unet_call, vae_decoder, image.
    package var summaryMS: [String: Summary]
    package var memory: MemoryFigures
    package var thermal: [ThermalSample]
    package var energy: [EnergySample]
    package var fidelity: [Fidelity]
    package var validity: Validity
    package var missing: [String: String]
    /// While pictures were measured, in their order; absent: nobody watched.
    package var events: [RunEvent]?

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
        case memory, thermal, energy, fidelity, validity, missing, events
    }

    package static func added(since version: Int) -> [String: any Sendable] {
        version < 2 ? ["compute_units": [String: String](), "placement": [String]()] : [:]
    }

    package func validate() throws(ContractViolation) {
        for (name, unit) in computeUnits.sorted(by: { $0.key < $1.key }) {
            try require(ComputeUnit(rawValue: unit) != nil, "compute_units.\(name)", "names no compute unit")
        }
        for (name, phases) in (timingsMS.loadPhases ?? [:]).sorted(by: { $0.key < $1.key }) {
            let known = phases.keys.allSatisfy { LoadPhase(rawValue: $0) != nil }
            try require(known, "timings_ms.load_phases.\(name)", "names no phase of loading")
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

/// The measured machine.
package struct DeviceInfo: Codable, Equatable, Sendable {
    package var model: String
    package var os: String
    @Nullable package var soc: String?
    @Nullable package var memoryBytes: Int?
    @Nullable package var cores: Int?

    package init(model: String, os: String, soc: String?, memoryBytes: Int?, cores: Int?) {
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
package struct BenchProtocol: Codable, Equatable, Sendable {
    package var warmupRuns: Int
    package var runs: Int
    /// Rest before the timed images.
    package var cooldownSeconds: Double
    package var minimumSeconds: Double
    @Nullable package var threads: Int?

    package init(warmupRuns: Int = 1, runs: Int = 5, cooldownSeconds: Double = 10, minimumSeconds: Double = 60) {
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
package struct Timings: Codable, Equatable, Sendable {
    /// Load time of each component in this run, once. Compiled programs of an earlier launch are taken.
    package var load: [String: Double] = [:]
    package var textEncoder: [Double] = []
    /// One list per measured image.
    package var unetCall: [[Double]] = []
    package var vaeDecoder: [Double] = []
    /// Prompt to picture.
    package var image: [Double] = []
    /// Component to phase (`compile`, `specialise`, `first`, `cached`) to time; absent: not told apart.
    package var loadPhases: [String: [LoadPhase.RawValue: Double]]?

    package init() {}

    enum CodingKeys: String, CodingKey {
        case load
        case textEncoder = "text_encoder"
        case unetCall = "unet_call"
        case vaeDecoder = "vae_decoder"
        case image
        case loadPhases = "load_phases"
    }
}

/// Parts of getting a program ready.
package enum LoadPhase: String, Sendable, CaseIterable {
    /// From the bundle's form to the system's, and for the device's chip.
    case compile, specialise
    /// The first load of what was compiled, and one after that.
    case first, cached
}

/// Something that happened to the app or the device while pictures were measured.
package struct RunEvent: Codable, Equatable, Sendable {
    package enum Kind: String, Codable, Sendable, CaseIterable {
        case background, foreground, lock, unlock, thermal
    }

    /// Since the start of the measured pictures.
    package var seconds: Double
    package var kind: Kind
    /// Of `thermal`: the new one.
    @Nullable package var state: String?

    package init(seconds: Double, kind: Kind, state: String? = nil) {
        self.seconds = seconds
        self.kind = kind
        _state = Nullable(wrappedValue: state)
    }
}

/// Nearest-rank percentiles and the mean of the middle 80 per cent, in milliseconds.
package struct Summary: Codable, Equatable, Sendable {
    package var count: Int
    package var p50: Double
    package var p90: Double
    package var p99: Double
    package var trimmedMean: Double

    enum CodingKeys: String, CodingKey {
        case count, p50, p90, p99
        case trimmedMean = "trimmed_mean"
    }
}

/// (seconds since start, bytes), written as `[seconds, bytes]`.
package struct MemorySample: Codable, Equatable, Sendable {
    package var seconds: Double
    package var bytes: Int

    package init(seconds: Double, bytes: Int) {
        self.seconds = seconds
        self.bytes = bytes
    }

    package init(from decoder: any Decoder) throws {
        var container = try decoder.unkeyedContainer()
        seconds = try container.decode(Double.self)
        bytes = try container.decode(Int.self)
        guard container.isAtEnd else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "a sample has two numbers")
        }
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.unkeyedContainer()
        try container.encode(seconds)
        try container.encode(bytes)
    }
}

/// Memory of the process, from a pass of its own.
package struct MemoryFigures: Codable, Equatable, Sendable {
    @Nullable package var baselineBytes: Int?
    @Nullable package var peakBytes: Int?
    package var method: String
    package var samples: [MemorySample]
    /// In a process that did nothing else; absent: not told.
    package var ownLaunch: Bool?

    package init(baselineBytes: Int?, peakBytes: Int?, method: String, samples: [MemorySample], ownLaunch: Bool? = nil) {
        self.ownLaunch = ownLaunch
        self.baselineBytes = baselineBytes
        self.peakBytes = peakBytes
        self.method = method
        self.samples = samples
    }

    enum CodingKeys: String, CodingKey {
        case baselineBytes = "baseline_bytes"
        case peakBytes = "peak_bytes"
        case method, samples
        case ownLaunch = "own_launch"
    }
}

/// One reading: seconds since the start, state (nominal, fair, serious, critical) and temperatures by sensor.
package struct ThermalSample: Codable, Equatable, Sendable {
    package var seconds: Double
    @Nullable package var state: String?
    package var celsius: [String: Double]
    @Nullable package var headroom: Double?

    package init(seconds: Double, state: String?, celsius: [String: Double] = [:]) {
        self.seconds = seconds
        self.state = state
        self.celsius = celsius
        _headroom = Nullable(wrappedValue: nil)
    }
}

/// One reading of power or charge.
package struct EnergySample: Codable, Equatable, Sendable {
    package var seconds: Double
    @Nullable package var milliwatts: Double?
    @Nullable package var batteryLevel: Double?

    package init(seconds: Double, milliwatts: Double? = nil, batteryLevel: Double? = nil) {
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
package struct Fidelity: Codable, Equatable, Sendable {
    package var goldenID: String
    /// dB over the range of the golden latents; nil when the two are identical.
    @Nullable package var latentPSNR: Double?
    package var latentMaxAbs: Double
    /// dB of the 8-bit pictures; nil when the two are identical.
    @Nullable package var imagePSNR: Double?
    /// In 8-bit levels.
    @Nullable package var imageMaxAbs: Double?

    enum CodingKeys: String, CodingKey {
        case goldenID = "golden_id"
        case latentPSNR = "latent_psnr_db"
        case latentMaxAbs = "latent_max_abs"
        case imagePSNR = "image_psnr_db"
        case imageMaxAbs = "image_max_abs"
    }
}

/// Conditions of a fair run; nil where the device cannot tell.
package struct Validity: Codable, Equatable, Sendable {
    @Nullable package var unplugged: Bool?
    @Nullable package var lowPowerModeOff: Bool?
    @Nullable package var thermalNominalAtStart: Bool?
    package var minimumDurationMet: Bool
    package var fidelityOK: Bool
    /// The app was in sight from start to end; absent: no app, or nobody watched.
    package var foreground: Bool?
    /// The device was never locked; absent: no lock, or nobody watched.
    package var unlocked: Bool?
    /// No reading of heat was serious or critical; absent: there was none.
    package var notThrottled: Bool?

    enum CodingKeys: String, CodingKey {
        case unplugged
        case lowPowerModeOff = "low_power_mode_off"
        case thermalNominalAtStart = "thermal_nominal_at_start"
        case minimumDurationMet = "minimum_duration_met"
        case fidelityOK = "fidelity_ok"
        case foreground, unlocked
        case notThrottled = "not_throttled"
    }
}
