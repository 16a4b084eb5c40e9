/// A small picture of a state: each latent is one pixel.
///
/// The map from a latent's channels to a colour is affine, and is fitted to what the bundle itself records: final latents and the
/// pictures that they decode to, by least squares over all places of all golden runs. So it needs no table of any model.
package struct Preview: Sendable {
    /// Three rows of C factors and a constant.
    private let rows: [[Double]]

    /// - Returns: nil where the runs are too few for a fit.
    package init?(goldenRuns: [GoldenRun]) {
        guard let channels = goldenRuns.first?.quantizedLatents.shape[1] else { return nil }
        let size = channels + 1
        var normal = [[Double]](repeating: [Double](repeating: 0, count: size), count: size)
        var right = [[Double]](repeating: [Double](repeating: 0, count: size), count: 3)
        for run in goldenRuns {
            for (latents, image) in [(run.quantizedLatents, run.image), (run.fpLatents, run.fpImage)] {
                for (features, colour) in Self.places(latents, image) {
                    for i in 0..<size {
                        for j in 0..<size { normal[i][j] += features[i] * features[j] }
                        for channel in 0..<3 { right[channel][i] += colour[channel] * features[i] }
                    }
                }
            }
        }
        // A trace of ridge keeps channels that never vary from making the system singular.
        let trace = (0..<size).reduce(0) { $0 + normal[$1][$1] }
        for i in 0..<size { normal[i][i] += 1e-6 * trace / Double(size) }
        guard trace > 0, trace.isFinite else { return nil }
        var solved: [[Double]] = []
        for side in right {
            guard let row = Self.solve(normal, side) else { return nil }
            solved.append(row)
        }
        rows = solved
    }

    /// - Parameter latents: [1, C, H, W].
    package func picture(of latents: Tensor) -> Picture {
        let (channels, height, width) = (latents.shape[1], latents.shape[2], latents.shape[3])
        let plane = height * width
        var rgb = [UInt8](repeating: 0, count: 3 * plane)
        for pixel in 0..<plane {
            for channel in 0..<3 {
                var value = rows[channel][channels]
                for index in 0..<channels { value += rows[channel][index] * Double(latents.data[index * plane + pixel]) }
                let level = (value / 2 + 0.5) * 255
                rgb[3 * pixel + channel] = level.isNaN ? 0 : UInt8(max(0, min(255, level.rounded())))
            }
        }
        return Picture(width: width, height: height, rgb: rgb)
    }

    /// (the latent's channels and 1, the mean colour of the pixels that it stands for), place by place.
    private static func places(_ latents: Tensor, _ image: Tensor) -> [(features: [Double], colour: [Double])] {
        let (channels, height, width) = (latents.shape[1], latents.shape[2], latents.shape[3])
        let (rows, columns) = (image.shape[2] / height, image.shape[3] / width)
        guard rows > 0, columns > 0 else { return [] }
        var found: [([Double], [Double])] = []
        for y in 0..<height {
            for x in 0..<width {
                let features = (0..<channels).map { Double(latents.data[($0 * height + y) * width + x]) } + [1]
                let colour = (0..<3).map { channel in
                    var sum = 0.0
                    for row in y * rows..<(y + 1) * rows {
                        for column in x * columns..<(x + 1) * columns {
                            sum += Double(image.data[(channel * image.shape[2] + row) * image.shape[3] + column])
                        }
                    }
                    return sum / Double(rows * columns)
                }
                found.append((features, colour))
            }
        }
        return found
    }

    /// Gauss's elimination with the largest pivot of each column.
    private static func solve(_ matrix: [[Double]], _ right: [Double]) -> [Double]? {
        var (a, b) = (matrix, right)
        let size = b.count
        for column in 0..<size {
            guard let pivot = (column..<size).max(by: { abs(a[$0][column]) < abs(a[$1][column]) }), abs(a[pivot][column]) > 0 else {
                return nil
            }
            a.swapAt(column, pivot)
            b.swapAt(column, pivot)
            for row in column + 1..<size {
                let factor = a[row][column] / a[column][column]
                for index in column..<size { a[row][index] -= factor * a[column][index] }
                b[row] -= factor * b[column]
            }
        }
        for column in (0..<size).reversed() {
            for index in column + 1..<size { b[column] -= a[column][index] * b[index] }
            b[column] /= a[column][column]
        }
        return b.allSatisfy(\.isFinite) ? b : nil
    }
}
