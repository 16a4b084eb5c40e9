import Foundation

/// An 8-bit RGB picture.
public struct Picture: Equatable, Sendable {
    /// In pixels.
    public let width: Int
    /// In pixels.
    public let height: Int
    /// Rows from the top, three bytes per pixel.
    public let rgb: [UInt8]

    /// - Precondition: `rgb` has three bytes for each pixel.
    public init(width: Int, height: Int, rgb: [UInt8]) {
        precondition(rgb.count == 3 * width * height)
        self.width = width
        self.height = height
        self.rgb = rgb
    }

    /// From decoder output [1, 3, H, W]: `clamp(x / 2 + 0.5, 0, 1) * 255`, rounded half to even. Not-a-number is black.
    package init(_ image: Tensor) throws(S2PError) {
        guard image.shape.count == 4, image.shape[0] == 1, image.shape[1] == 3 else {
            throw .shapeMismatch(what: "image", found: image.shape, expected: [1, 3])
        }
        height = image.shape[2]
        width = image.shape[3]
        let plane = width * height
        var bytes = [UInt8](repeating: 0, count: 3 * plane)
        for channel in 0..<3 {
            for pixel in 0..<plane {
                let value = image.data[channel * plane + pixel] / 2 + 0.5
                if value.isNaN { continue }
                bytes[3 * pixel + channel] = UInt8((max(0, min(1, value)) * 255).rounded(.toNearestOrEven))
            }
        }
        rgb = bytes
    }

    /// The picture as a PNG file (RFC 2083) with stored, that is uncompressed, data.
    public func png() -> Data {
        func bigEndian(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) } }
        func chunk(_ type: String, _ content: [UInt8]) -> [UInt8] {
            let body = Array(type.utf8) + content
            return bigEndian(UInt32(content.count)) + body + bigEndian(Self.crc32(body))
        }
        var rows: [UInt8] = []
        for row in 0..<height {
            rows.append(0)
            rows += rgb[3 * width * row..<3 * width * (row + 1)]
        }
        var stream: [UInt8] = [0x78, 0x01]
        var start = 0
        repeat {
            let end = min(start + 0xFFFF, rows.count)
            let count = UInt16(end - start)
            let lengths = [count, ~count].flatMap { [UInt8(truncatingIfNeeded: $0), UInt8(truncatingIfNeeded: $0 >> 8)] }
            stream += [end == rows.count ? 1 : 0] + lengths + rows[start..<end]
            start = end
        } while start < rows.count
        stream += bigEndian(Self.adler32(rows))
        let header = bigEndian(UInt32(width)) + bigEndian(UInt32(height)) + [8, 2, 0, 0, 0]
        let signature: [UInt8] = [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]
        return Data(signature + chunk("IHDR", header) + chunk("IDAT", stream) + chunk("IEND", []))
    }

    private static func crc32(_ bytes: [UInt8]) -> UInt32 {
        ~bytes.reduce(~UInt32(0)) { crc, byte in
            (0..<8).reduce(crc ^ UInt32(byte)) { value, _ in value >> 1 ^ (value & 1 == 1 ? 0xEDB8_8320 : 0) }
        }
    }

    private static func adler32(_ bytes: [UInt8]) -> UInt32 {
        var (a, b): (UInt32, UInt32) = (1, 0)
        for byte in bytes {
            a = (a + UInt32(byte)) % 65521
            b = (b + a) % 65521
        }
        return b << 16 | a
    }
}
