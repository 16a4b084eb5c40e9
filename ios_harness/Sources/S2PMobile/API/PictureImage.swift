#if canImport(CoreGraphics)
import CoreGraphics
import Foundation
import ImageIO

extension Picture {
    /// The picture for UIKit, AppKit and SwiftUI, in sRGB; nil when the system is out of memory.
    public var cgImage: CGImage? {
        guard let space = CGColorSpace(name: CGColorSpace.sRGB), let provider = CGDataProvider(data: Data(rgb) as CFData) else {
            return nil
        }
        return CGImage(
            width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 24, bytesPerRow: 3 * width, space: space,
            bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue), provider: provider, decode: nil,
            shouldInterpolate: true, intent: .defaultIntent
        )
    }

    /// An image scaled until it covers a size, such as ``Pipeline/size``; what stands over is cut off on both sides alike. Transparent
    /// parts become white. nil when the system is out of memory.
    public init?(_ image: CGImage, covering size: (width: Int, height: Int)) {
        guard size.width > 0, size.height > 0, let space = CGColorSpace(name: CGColorSpace.sRGB) else { return nil }
        let scale = max(Double(size.width) / Double(image.width), Double(size.height) / Double(image.height))
        let (width, height) = (scale * Double(image.width), scale * Double(image.height))
        let place = CGRect(
            x: (Double(size.width) - width) / 2, y: (Double(size.height) - height) / 2, width: width, height: height
        )
        // The context draws over what lies in its memory, which is white. CoreGraphics has no pixels of three bytes.
        var pixels = [UInt8](repeating: 255, count: 4 * size.width * size.height)
        let drawn = pixels.withUnsafeMutableBytes { buffer in
            guard let context = CGContext(
                data: buffer.baseAddress, width: size.width, height: size.height, bitsPerComponent: 8, bytesPerRow: 4 * size.width,
                space: space, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue
            ) else { return false }
            context.interpolationQuality = .high
            context.draw(image, in: place)
            return true
        }
        guard drawn else { return nil }
        var rgb: [UInt8] = []
        rgb.reserveCapacity(3 * size.width * size.height)
        for start in stride(from: 0, to: pixels.count, by: 4) { rgb += pixels[start..<start + 3] }
        self.init(width: size.width, height: size.height, rgb: rgb)
    }

    /// A photo as its file holds it (JPEG, HEIC, PNG and whatever the system reads), turned as the camera was held, then as
    /// ``init(_:covering:)`` has it. nil when the data is no picture.
    public init?(_ photo: Data, covering size: (width: Int, height: Int)) {
        // A thumbnail without a size is the whole picture; only thumbnails are turned.
        let options = NSDictionary(dictionary: [
            kCGImageSourceCreateThumbnailFromImageAlways as String: true, kCGImageSourceCreateThumbnailWithTransform as String: true,
        ]) as CFDictionary
        guard let source = CGImageSourceCreateWithData(photo as CFData, nil),
            let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options)
        else { return nil }
        self.init(image, covering: size)
    }
}
#endif
