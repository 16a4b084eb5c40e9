import Foundation

/// Gaussian noise that is the same on every platform: Philox4x32-10 and Box-Muller (docs/formats.md).
///
/// Philox: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).
package enum Philox {
    /// One block of four random words.
    package static func block(counter: SIMD4<UInt32>, key: SIMD2<UInt32>, rounds: Int = 10) -> SIMD4<UInt32> {
        var c = counter
        var k = key
        for _ in 0..<rounds {
            let product0 = UInt64(0xD251_1F53) &* UInt64(c[0])
            let product1 = UInt64(0xCD9E_8D57) &* UInt64(c[2])
            c = SIMD4(
                UInt32(truncatingIfNeeded: product1 >> 32) ^ c[1] ^ k[0],
                UInt32(truncatingIfNeeded: product1),
                UInt32(truncatingIfNeeded: product0 >> 32) ^ c[3] ^ k[1],
                UInt32(truncatingIfNeeded: product0)
            )
            k = k &+ SIMD2(0x9E37_79B9, 0xBB67_AE85)
        }
        return c
    }

    /// Standard normal numbers in C order, computed in double and rounded to float32 once.
    ///
    /// - Parameters:
    ///   - stream: 0 for the initial latents, `i + 1` for the fresh noise of call `i`.
    ///   - shape: of the result; at most 2^34 numbers.
    package static func gaussian(seed: UInt64, shape: [Int], stream: UInt32 = 0) -> Tensor {
        let count = elementCount(shape) ?? 0
        let key = SIMD2(UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32))
        var values: [Float] = []
        values.reserveCapacity(count + 3)
        for block in 0..<(count + 3) / 4 {
            let words = Self.block(counter: SIMD4(UInt32(truncatingIfNeeded: block), 0, stream, 0), key: key)
            for pair in [0, 2] {
                let radius = (-2 * log(uniform(words[pair]))).squareRoot()
                let angle = 2 * Double.pi * uniform(words[pair + 1])
                values.append(Float(radius * cos(angle)))
                values.append(Float(radius * sin(angle)))
            }
        }
        return Tensor(shape: shape, data: Array(values.prefix(count)))
    }

    private static func uniform(_ word: UInt32) -> Double {
        (Double(word) + 0.5) / 0x1p32
    }
}
