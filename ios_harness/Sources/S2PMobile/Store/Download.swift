import Foundation

#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

/// A file that arrives over HTTP, a part at a time: what lies there already is not fetched again (RFC 9110, section 14).
struct Download: Sendable {
    let url: URL
    /// Where the bytes go. What was asked of which version stands beside it, in `.tag`.
    let file: URL
    /// The most that is taken; nil: what the server says.
    let limit: Int?
    let configuration: URLSessionConfiguration

    private var tagFile: URL { file.appendingPathExtension("tag") }

    /// Fetches the rest.
    ///
    /// - Parameter progress: told (bytes so far, all of them where the server says how many).
    /// - Throws: `download`, `cannotWrite`; `CancellationError`. What came stays, and the next call goes on there.
    func run(progress: @escaping @Sendable (Int, Int?) -> Void) async throws {
        var request = URLRequest(url: url)
        let here = (try? FileManager.default.attributesOfItem(atPath: file.path))?[.size] as? NSNumber
        let tag = try? String(contentsOf: tagFile, encoding: .utf8)
        // Without a tag nobody knows whether these bytes belong to what the server has now.
        let offset = tag == nil ? 0 : here?.intValue ?? 0
        if offset > 0, let tag {
            request.setValue("bytes=\(offset)-", forHTTPHeaderField: "Range")
            request.setValue(tag, forHTTPHeaderField: "If-Range")
        }
        let receiver = Receiver(download: self, offset: offset, tagFile: tagFile, progress: progress)
        let session = URLSession(configuration: configuration, delegate: receiver, delegateQueue: nil)
        defer { session.finishTasksAndInvalidate() }
        let task = session.dataTask(with: request)
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
                receiver.begin(continuation)
                task.resume()
            }
        } onCancel: {
            task.cancel()
        }
    }
}

/// Writes what arrives into the file as it comes: nothing is collected in memory.
///
/// `@unchecked Sendable`: a session calls its delegate on one serial queue, and `begin` comes before the task is started.
private final class Receiver: NSObject, URLSessionDataDelegate, @unchecked Sendable {
    private let download: Download
    private let offset: Int
    private let tagFile: URL
    private let progress: @Sendable (Int, Int?) -> Void
    private var continuation: CheckedContinuation<Void, any Error>?
    private var handle: FileHandle?
    private var received = 0
    private var expected: Int?
    private var problem: (any Error)?
    private var isWhole = false

    init(download: Download, offset: Int, tagFile: URL, progress: @escaping @Sendable (Int, Int?) -> Void) {
        self.download = download
        self.offset = offset
        self.tagFile = tagFile
        self.progress = progress
    }

    func begin(_ continuation: CheckedContinuation<Void, any Error>) { self.continuation = continuation }

    func urlSession(
        _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
        completionHandler: @escaping @Sendable (URLSession.ResponseDisposition) -> Void
    ) {
        do {
            completionHandler(try accept(response) ? .allow : .cancel)
        } catch {
            problem = error
            completionHandler(.cancel)
        }
    }

    func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
        guard problem == nil else { return }
        received += data.count
        do {
            if let limit = download.limit, received > limit {
                throw S2PError.download(name, reason: "it is larger than \(limit) bytes", remedy: "get the right address from its author")
            }
            try handle?.write(contentsOf: data)
            progress(received, expected)
        } catch let error as S2PError {
            problem = error
            dataTask.cancel()
        } catch {
            problem = S2PError.cannotWrite(path: download.file.path, reason: error.localizedDescription)
            dataTask.cancel()
        }
    }

    func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
        try? handle?.close()
        if let problem {
            continuation?.resume(throwing: problem)
        } else if isWhole {
            continuation?.resume()
        } else if let error = error as? URLError, error.code == .cancelled {
            continuation?.resume(throwing: CancellationError())
        } else if let error {
            continuation?.resume(throwing: S2PError.download(name, reason: error.localizedDescription, remedy: "try again, it goes on there"))
        } else if let expected, received < expected {
            let reason = "the connection ended at \(received) of \(expected) bytes"
            continuation?.resume(throwing: S2PError.download(name, reason: reason, remedy: "try again, it goes on there"))
        } else {
            continuation?.resume()
        }
        continuation = nil
    }

    private var name: String { download.url.lastPathComponent }

    /// Whether more bytes are wanted.
    private func accept(_ response: URLResponse) throws -> Bool {
        guard let answer = response as? HTTPURLResponse else {
            throw S2PError.download(name, reason: "its address is not one of the web", remedy: "give an address with https")
        }
        switch answer.statusCode {
        case 200: received = 0
        case 206: received = offset
        case 416 where offset > 0:
            // All of it is here already; the checksum says whether it is right.
            isWhole = true
            return false
        default: throw S2PError.download(name, reason: "the server answers \(answer.statusCode)", remedy: "see its address, or try later")
        }
        if received == 0 {
            guard FileManager.default.createFile(atPath: download.file.path, contents: nil) else {
                throw S2PError.cannotWrite(path: download.file.path, reason: "the system refuses it")
            }
            // Weak tags may stand for other bytes; without a strong one the next try begins anew.
            let tag = answer.value(forHTTPHeaderField: "ETag").flatMap { $0.hasPrefix("W/") ? nil : $0 }
            try? FileManager.default.removeItem(at: tagFile)
            if let tag { try? Data(tag.utf8).write(to: tagFile, options: .atomic) }
        }
        let length = answer.expectedContentLength
        expected = length > 0 ? received + Int(clamping: length) : nil
        if let limit = download.limit, let expected, expected > limit {
            throw S2PError.download(name, reason: "it is larger than \(limit) bytes", remedy: "get the right address from its author")
        }
        let file = try FileHandle(forWritingTo: download.file)
        try file.seekToEnd()
        handle = file
        progress(received, expected)
        return true
    }
}
