/// Everything that can be wrong with the input, as one line for a person: what is wrong; what to do.
///
/// The cases mean the same as the messages of the Python readers (`s2p_runtime`); `kind` names them as
/// `tests/fixtures/malformed/index.json` does.
public enum BenchError: Error, Equatable, Sendable {
    case notFound(path: String)
    case notJSON(file: String, reason: String)
    case wrongFormat(file: String, expected: String)
    case badVersion(file: String)
    case futureVersion(file: String, found: Int, supported: Int)
    case invalid(file: String, problem: String)
    case outside(folder: String, path: String)
    case missingFile(folder: String, path: String)
    case wrongSize(folder: String, path: String, found: Int, expected: Int)
    case altered(folder: String, path: String)
    case badTensors(file: String, reason: String)
    case badTokenizer(reason: String)
    /// The engine runs programs of another target.
    case wrongTarget(bundle: String, target: String, runs: String)
    case noComponent(folder: String, name: String, available: [String])
    case noGoldenRun(folder: String, reason: String)
    case shapeMismatch(what: String, found: [Int], expected: [Int])
    /// A replayed component was asked for something that the golden run does not hold.
    case notRecorded(what: String)
    /// The machine refused to load or run a component.
    case backend(component: String, reason: String)
    case cannotWrite(path: String, reason: String)
    case usage(String)
}

extension BenchError {
    public var kind: String {
        switch self {
        case .notFound: "not_found"
        case .notJSON: "not_json"
        case .wrongFormat: "wrong_format"
        case .badVersion: "bad_version"
        case .futureVersion: "future_version"
        case .invalid: "invalid"
        case .outside: "outside"
        case .missingFile: "missing_file"
        case .wrongSize: "wrong_size"
        case .altered: "altered"
        case .badTensors: "bad_tensors"
        case .badTokenizer: "bad_tokenizer"
        case .wrongTarget: "wrong_target"
        case .noComponent: "no_component"
        case .noGoldenRun: "no_golden_run"
        case .shapeMismatch: "shape_mismatch"
        case .notRecorded: "not_recorded"
        case .backend: "backend"
        case .cannotWrite: "cannot_write"
        case .usage: "usage"
        }
    }
}

extension BenchError: CustomStringConvertible {
    public var description: String {
        // Names come from files and may hold anything: the message stays one line.
        message.split(whereSeparator: \.isNewline).joined(separator: " ")
    }

    private var message: String {
        switch self {
        case .notFound(let path):
            "\(path) does not exist; give a bundle made by s2p-mobile convert"
        case .notJSON(let file, let reason):
            "\(file) is not readable JSON (\(reason)); get it from its author again"
        case .wrongFormat(let file, let expected):
            "\(file) is not of format '\(expected)'; give a folder made by s2p-mobile"
        case .badVersion(let file):
            "\(file) has no valid version number; get it from its author again"
        case .futureVersion(let file, let found, let supported):
            "\(file) has format version \(found), this harness reads \(supported); update the harness"
        case .invalid(let file, let problem):
            "\(file) is invalid (\(problem)); get it from its author again"
        case .outside(let folder, let path):
            "path '\(path)' in \(folder) points outside its folder; get the folder from its author again"
        case .missingFile(let folder, let path):
            "\(folder) lacks \(path); get the folder again"
        case .wrongSize(let folder, let path, let found, let expected):
            "\(path) in \(folder) has \(found) bytes instead of \(expected); get the folder again"
        case .altered(let folder, let path):
            "\(path) in \(folder) was altered (sha256 differs); get the folder again"
        case .badTensors(let file, let reason):
            "\(file) is not a complete safetensors file (\(reason)); get it from its author again"
        case .badTokenizer(let reason):
            "the tokenizer does not fit together (\(reason)); get the bundle again"
        case .wrongTarget(let bundle, let target, let runs):
            "\(bundle) is a bundle for \(target); this app runs \(runs), so convert the checkpoint for that"
        case .noComponent(let folder, let name, let available):
            "\(folder) has no component '\(name)'; it has \(available.joined(separator: ", "))"
        case .noGoldenRun(let folder, let reason):
            "\(folder) has no usable golden run (\(reason)); convert the checkpoint again"
        case .shapeMismatch(let what, let found, let expected):
            "\(what) has shape \(found) instead of \(expected); get the bundle again"
        case .notRecorded(let what):
            "the golden run does not hold \(what); replay only its own prompt and seed"
        case .backend(let component, let reason):
            "\(component) cannot run on this device (\(reason)); try another --compute-unit, or --stage"
        case .cannotWrite(let path, let reason):
            "cannot write \(path) (\(reason)); choose another place"
        case .usage(let text):
            text
        }
    }
}
