// Checksums.
import Foundation

/// https://developer.apple.com/documentation/cryptokit/sha256digest
public struct SHA256Digest: Sequence {
    public func makeIterator() -> AnyIterator<UInt8> { fatalError() }
}

/// https://developer.apple.com/documentation/cryptokit/sha256
@available(macOS 10.15, iOS 13.0, *)
public struct SHA256 {
    public init() {}
    public mutating func update<D: DataProtocol>(data: D) {}
    public func finalize() -> SHA256Digest { fatalError() }
    public static func hash<D: DataProtocol>(data: D) -> SHA256Digest { fatalError() }
}
