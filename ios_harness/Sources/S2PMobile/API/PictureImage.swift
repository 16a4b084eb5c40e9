#if canImport(CoreGraphics)
import CoreGraphics
import Foundation

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
}
#endif
