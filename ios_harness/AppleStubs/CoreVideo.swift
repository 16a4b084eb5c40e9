// Buffers that processors share.
@_exported import CoreGraphics
import Foundation

/// https://developer.apple.com/documentation/kernel/ostype
public typealias OSType = UInt32
/// https://developer.apple.com/documentation/corevideo/cvreturn
public typealias CVReturn = Int32

/// https://developer.apple.com/documentation/corefoundation/cfallocator
public final class CFAllocator {}
/// https://developer.apple.com/documentation/corevideo/cvbuffer
public final class CVBuffer {}
/// https://developer.apple.com/documentation/corevideo/cvpixelbuffer
public typealias CVPixelBuffer = CVBuffer

/// https://developer.apple.com/documentation/corefoundation/kcfallocatordefault
nonisolated(unsafe) public let kCFAllocatorDefault: CFAllocator! = nil
/// https://developer.apple.com/documentation/corevideo/kcvpixelbufferiosurfacepropertieskey
public let kCVPixelBufferIOSurfacePropertiesKey: CFString = ""
/// https://developer.apple.com/documentation/corevideo/kcvpixelformattype_onecomponent16half
public var kCVPixelFormatType_OneComponent16Half: OSType { 0x4C30_3068 }
/// https://developer.apple.com/documentation/corevideo/kcvreturnsuccess
public var kCVReturnSuccess: CVReturn { 0 }

/// https://developer.apple.com/documentation/corevideo/cvpixelbuffercreate(_:_:_:_:_:_:)
public func CVPixelBufferCreate(
    _ allocator: CFAllocator?, _ width: Int, _ height: Int, _ pixelFormatType: OSType, _ pixelBufferAttributes: CFDictionary?,
    _ pixelBufferOut: UnsafeMutablePointer<CVPixelBuffer?>
) -> CVReturn { fatalError() }
