import Foundation

/// Everything that can be wrong with what an app gives the library, or with the device, as one line for a person.
///
/// Stopping a task is no error of the input: it throws `CancellationError`.
public struct S2PError: Error, Equatable, Sendable {
    /// What is wrong.
    public let problem: String
    /// What to do.
    public let remedy: String
    /// As `tests/fixtures/malformed/index.json` names the kinds of errors; the readers of other languages mean the same by them.
    package let kind: String

    package init(_ kind: String, _ problem: String, _ remedy: String) {
        self.kind = kind
        // Names come from files and may hold anything: the message stays one line.
        self.problem = Self.oneLine(problem)
        self.remedy = Self.oneLine(remedy)
    }

    private static func oneLine(_ text: String) -> String {
        text.split(whereSeparator: \.isNewline).joined(separator: " ")
    }
}

extension S2PError: CustomStringConvertible, LocalizedError {
    /// `what is wrong; what to do`.
    public var description: String { "\(problem); \(remedy)" }

    /// The same, for code that shows `localizedDescription`.
    public var errorDescription: String? { description }
}

extension S2PError {
    private static let again = "get it from its author again"
    private static let folderAgain = "get the folder again"

    package static func notFound(path: String) -> S2PError {
        S2PError("not_found", "\(path) does not exist", "give a bundle made by s2p-mobile convert")
    }

    package static func notJSON(file: String, reason: String) -> S2PError {
        S2PError("not_json", "\(file) is not readable JSON (\(reason))", again)
    }

    package static func wrongFormat(file: String, expected: String) -> S2PError {
        S2PError("wrong_format", "\(file) is not of format '\(expected)'", "give one made by s2p-mobile")
    }

    package static func badVersion(file: String) -> S2PError {
        S2PError("bad_version", "\(file) has no valid version number", again)
    }

    package static func futureVersion(file: String, found: Int, supported: Int) -> S2PError {
        S2PError("future_version", "\(file) has format version \(found), this app reads \(supported)", "update the app")
    }

    package static func invalid(file: String, problem: String) -> S2PError {
        S2PError("invalid", "\(file) is invalid (\(problem))", again)
    }

    package static func outside(folder: String, path: String) -> S2PError {
        S2PError("outside", "path '\(path)' in \(folder) points outside its folder", "get the folder from its author again")
    }

    package static func missingFile(folder: String, path: String) -> S2PError {
        S2PError("missing_file", "\(folder) lacks \(path)", folderAgain)
    }

    package static func wrongSize(folder: String, path: String, found: Int, expected: Int) -> S2PError {
        S2PError("wrong_size", "\(path) in \(folder) has \(found) bytes instead of \(expected)", folderAgain)
    }

    package static func altered(folder: String, path: String) -> S2PError {
        S2PError("altered", "\(path) in \(folder) was altered (sha256 differs)", folderAgain)
    }

    package static func badTensors(file: String, reason: String) -> S2PError {
        S2PError("bad_tensors", "\(file) is not a complete safetensors file (\(reason))", again)
    }

    package static func badTokenizer(reason: String) -> S2PError {
        S2PError("bad_tokenizer", "the tokenizer does not fit together (\(reason))", "get the bundle again")
    }

    package static func badArchive(_ archive: String, reason: String) -> S2PError {
        S2PError("bad_archive", "\(archive) is no archive of a bundle (\(reason))", "get it again")
    }

    /// The engine runs programs of another target.
    package static func wrongTarget(bundle: String, target: String, runs: String) -> S2PError {
        S2PError("wrong_target", "\(bundle) is a bundle for \(target)", "this app runs \(runs), so convert the checkpoint for that")
    }

    package static func noComponent(folder: String, name: String, available: [String]) -> S2PError {
        S2PError("no_component", "\(folder) has no component '\(name)'", "it has \(available.joined(separator: ", "))")
    }

    package static func noGoldenRun(folder: String, reason: String) -> S2PError {
        S2PError("no_golden_run", "\(folder) has no usable golden run (\(reason))", "convert the checkpoint again")
    }

    package static func shapeMismatch(what: String, found: [Int], expected: [Int]) -> S2PError {
        S2PError("shape_mismatch", "\(what) has shape \(found) instead of \(expected)", "get the bundle again")
    }

    /// A replayed component was asked for something that the golden run does not hold.
    package static func notRecorded(what: String) -> S2PError {
        S2PError("not_recorded", "the golden run does not hold \(what)", "replay only its own prompt and seed")
    }

    /// The machine refused to load or run a component.
    package static func backend(component: String, reason: String) -> S2PError {
        S2PError("backend", "\(component) cannot run on this device (\(reason))", "try another compute unit, or less memory")
    }

    package static func cannotWrite(path: String, reason: String) -> S2PError {
        S2PError("cannot_write", "cannot write \(path) (\(reason))", "choose another place")
    }

    package static func download(_ name: String, reason: String, remedy: String) -> S2PError {
        S2PError("download", "\(name) was not downloaded (\(reason))", remedy)
    }

    package static func usage(_ problem: String, _ remedy: String) -> S2PError {
        S2PError("usage", problem, remedy)
    }
}
