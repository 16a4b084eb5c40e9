import CoreGraphics
import Foundation
import Observation
import S2PMobile

/// What the screen shows, and what it does.
@MainActor
@Observable
final class DrawModel {
    var prompt = "a red apple"
    /// What pictures start from; nil: noise.
    private(set) var photo: Picture?
    private(set) var image: CGImage?
    /// Of what goes on; nil: nothing, or nobody knows how long it takes.
    private(set) var fraction: Double?
    private(set) var status = ""
    private(set) var isBusy = false
    private var pipeline: Pipeline?
    private var drawing: Task<Void, Never>?

    var isReady: Bool { pipeline != nil }
    /// Whether the bundle takes a photo.
    var takesPhotos: Bool { pipeline?.startsFromPictures == true }

    /// Takes the bundle that is here, or fetches it; then makes the device ready. The first time this takes minutes.
    func open() async {
        guard pipeline == nil else { return }
        do {
            let opened = try await Pipeline(bundle: try await bundle())
            status = "making the device ready"
            try await opened.prewarm()
            pipeline = opened
            status = "\(opened.name), \(opened.size.width) x \(opened.size.height)"
        } catch {
            status = error.localizedDescription
        }
        fraction = nil
    }

    func draw() {
        guard let pipeline, !isBusy else { return }
        isBusy = true
        drawing = Task {
            do {
                for try await step in pipeline.generate(prompt, image: photo) {
                    if let picture = step.picture ?? step.preview { image = picture.cgImage }
                    (fraction, status) = (step.fraction, step.stage.rawValue)
                }
            } catch is CancellationError {
                status = "stopped"
            } catch {
                status = error.localizedDescription
            }
            (isBusy, fraction) = (false, nil)
        }
    }

    /// Pictures start from the photo in a file's bytes; from noise where there is none.
    func start(from data: Data?) async {
        guard let pipeline, let data else { return photo = nil }
        let size = pipeline.size
        photo = await Task.detached { Picture(data, covering: size) }.value
        image = photo?.cgImage ?? image
        if photo == nil { status = "this photo cannot be read; choose another one" }
    }

    func stop() {
        drawing?.cancel()
    }

    /// A folder that was copied into the app's Documents comes first; then the store, and what `BundleSource` names.
    private func bundle() async throws -> URL {
        let documents = URL.documentsDirectory
        let names = (try? FileManager.default.contentsOfDirectory(atPath: documents.path)) ?? []
        if let name = names.sorted().first(where: { $0.hasSuffix(".s2pmobile") }) { return documents.appending(path: name) }
        let store = try BundleStore()
        if let bundle = store.bundles.first { return bundle }
        guard let source = BundleSource.archive else { throw NoBundle() }
        status = "downloading"
        for try await step in store.download(source.url, sha256: source.sha256) {
            fraction = step.fraction
            if let bundle = step.bundle { return bundle }
        }
        throw CancellationError()
    }
}

/// Where the app's bundle is. Fill it in: `s2p-mobile convert CHECKPOINT --target coreml --out NAME.s2pmobile --archive NAME.s2pmobile.zip`,
/// put the archive on a server, and take its checksum with `shasum -a 256`.
enum BundleSource {
    static let archive: (url: URL, sha256: String)? = nil
}

/// Neither in Documents nor named.
struct NoBundle: LocalizedError {
    var errorDescription: String? { "there is no bundle; copy one into this app's folder, or name an archive in BundleSource" }
}
