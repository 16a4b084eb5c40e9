import Foundation
import S2PMobile

extension Summary {
    /// Nearest-rank percentiles (sample `ceil(p / 100 * n)` of n sorted) and the mean after dropping `floor(n / 10)`
    /// samples at each end; nil without samples.
    package init?(_ samples: [Double]) {
        guard !samples.isEmpty else { return nil }
        let sorted = samples.sorted()
        func percentile(_ p: Int) -> Double { sorted[(p * sorted.count + 99) / 100 - 1] }
        let cut = sorted.count / 10
        let middle = sorted[cut..<sorted.count - cut]
        self.init(
            count: sorted.count, p50: percentile(50), p90: percentile(90), p99: percentile(99),
            trimmedMean: middle.reduce(0, +) / Double(middle.count)
        )
    }
}

/// `10 log10(peak^2 / mse)` in dB; nil when the arrays are identical.
func psnr(_ values: [Double], _ reference: [Double], peak: Double) -> Double? {
    let sum = zip(values, reference).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
    return sum == 0 ? nil : 10 * log10(peak * peak * Double(reference.count) / sum)
}

extension Fidelity {
    /// dB; docs/formats.md has the rule. `s2p_runtime.verify` and the Android harness use the same number.
    package static let minimumLatentPSNR = 30.0
    /// dB of the 8-bit picture, below which the decoder is a wrong one; `MINIMUM_PICTURE_PSNR_DB` in Python.
    package static let minimumPicturePSNR = 20.0

    /// Whether latents and picture are those of the golden run.
    package func isRight(minimumLatentPSNR: Double = Fidelity.minimumLatentPSNR) -> Bool {
        (latentPSNR ?? .infinity) >= minimumLatentPSNR && (imagePSNR ?? .infinity) >= Self.minimumPicturePSNR
    }

    /// Compares a drawing with the recorded quantized run.
    ///
    /// - Throws: `shapeMismatch`; `backend` when the device drew numbers that are not finite, which no report can hold.
    package init(_ drawing: Drawing, against golden: GoldenRun) throws(S2PError) {
        let reference = golden.quantizedLatents
        let latents = try drawing.latents.checked("final latents", shape: reference.shape)
        _ = try drawing.image.checked("image", shape: golden.image.shape)
        guard latents.data.allSatisfy(\.isFinite), drawing.image.data.allSatisfy(\.isFinite) else {
            throw .backend(component: "unet or vae_decoder", reason: "golden run \(golden.spec.id) gives numbers that are not finite")
        }
        let exact = reference.data.map(Double.init)
        let range = (exact.max() ?? 0) - (exact.min() ?? 0)
        let picture = try Picture(drawing.image).rgb.map(Double.init)
        let goldenPicture = try Picture(golden.image).rgb.map(Double.init)
        // A constant reference has no range: any deviation is then -infinity dB, which JSON cannot say.
        let latentPSNR = psnr(latents.data.map(Double.init), exact, peak: max(range, .leastNormalMagnitude.squareRoot()))
        self.init(
            goldenID: golden.spec.id,
            latentPSNR: latentPSNR,
            latentMaxAbs: maximumDifference(latents, reference),
            imagePSNR: psnr(picture, goldenPicture, peak: 255),
            imageMaxAbs: zip(picture, goldenPicture).map { abs($0 - $1) }.max() ?? 0
        )
    }
}
