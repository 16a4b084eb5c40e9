import Foundation

// Foundation of Linux has neither; bridged classes stand for them.
public typealias CFString = String
public typealias CFDictionary = NSDictionary
public typealias CFAllocator = NSObject
public typealias OSType = UInt32
public typealias CVReturn = Int32

public final class CVBuffer {}
public typealias CVPixelBuffer = CVBuffer

nonisolated(unsafe) public let kCFAllocatorDefault: CFAllocator? = nil
public let kCVPixelBufferIOSurfacePropertiesKey: CFString = ""
public let kCVPixelFormatType_OneComponent16Half: OSType = 0
public let kCVReturnSuccess: CVReturn = 0

public func CVPixelBufferCreate(
    _ allocator: CFAllocator?, _ width: Int, _ height: Int, _ pixelFormatType: OSType, _ pixelBufferAttributes: CFDictionary?,
    _ pixelBufferOut: UnsafeMutablePointer<CVPixelBuffer?>
) -> CVReturn { fatalError() }
