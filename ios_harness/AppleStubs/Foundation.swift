// What the library, the bench and the apps use of Foundation. Bridged kinds stand for each other: there is no Objective-C here.
@_exported import Darwin
@_exported import Observation

/// https://developer.apple.com/documentation/foundation/dataprotocol
public protocol DataProtocol: RandomAccessCollection where Element == UInt8 {}

/// https://developer.apple.com/documentation/foundation/data
public struct Data: RandomAccessCollection, MutableCollection, RangeReplaceableCollection, DataProtocol, Hashable, Codable, Sendable {
    public typealias Index = Int
    public typealias Element = UInt8
    public typealias SubSequence = Data
    public struct ReadingOptions: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }
        public static let mappedIfSafe = ReadingOptions(rawValue: 1)
    }
    public struct WritingOptions: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }
        public static let atomic = WritingOptions(rawValue: 1)
    }
    public init() {}
    public init(capacity: Int) {}
    public init<S: Sequence>(_ elements: S) where S.Element == UInt8 {}
    public init(_ buffer: UnsafeRawBufferPointer) {}
    public init(contentsOf url: URL, options: ReadingOptions = []) throws {}
    public init(from decoder: any Decoder) throws {}
    public func encode(to encoder: any Encoder) throws {}
    public var startIndex: Int { 0 }
    public var endIndex: Int { 0 }
    public subscript(index: Int) -> UInt8 { get { 0 } set {} }
    public subscript(bounds: Range<Int>) -> Data { get { self } set {} }
    public mutating func replaceSubrange<C: Collection>(_ subrange: Range<Int>, with newElements: C) where C.Element == UInt8 {}
    public mutating func append(contentsOf bytes: UnsafeRawBufferPointer) {}
    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { fatalError() }
    public func write(to url: URL, options: WritingOptions = []) throws {}
}

extension Array: DataProtocol where Element == UInt8 {}
extension Slice: DataProtocol where Base: DataProtocol {}
extension ArraySlice: DataProtocol where Element == UInt8 {}

/// https://developer.apple.com/documentation/foundation/url
public struct URL: Hashable, Codable, Sendable {
    public enum DirectoryHint: Sendable { case isDirectory, notDirectory, checkFileSystem, inferFromPath }
    public init?(string: String) { nil }
    public init(fileURLWithPath path: String) {}
    public init(fileURLWithPath path: String, isDirectory: Bool) {}
    public init(from decoder: any Decoder) throws {}
    public func encode(to encoder: any Encoder) throws {}
    public var path: String { "" }
    public var lastPathComponent: String { "" }
    public var pathComponents: [String] { [] }
    public var standardizedFileURL: URL { self }
    public func appendingPathComponent(_ component: String) -> URL { self }
    public func appendingPathComponent(_ component: String, isDirectory: Bool) -> URL { self }
    public func appendingPathExtension(_ pathExtension: String) -> URL { self }
    public func deletingLastPathComponent() -> URL { self }
    public func resolvingSymlinksInPath() -> URL { self }
    public mutating func setResourceValues(_ values: URLResourceValues) throws {}
    @available(macOS 13.0, iOS 16.0, *)
    public func appending<S: StringProtocol>(path: S, directoryHint: DirectoryHint = .inferFromPath) -> URL { self }
    @available(macOS 13.0, iOS 16.0, *)
    public static var documentsDirectory: URL { fatalError() }
}

/// https://developer.apple.com/documentation/foundation/urlresourcevalues
public struct URLResourceValues {
    public init() {}
    @available(macOS 10.8, iOS 5.1, *)
    public var isExcludedFromBackup: Bool? { get { nil } set {} }
}

/// https://developer.apple.com/documentation/foundation/timeinterval
public typealias TimeInterval = Double

/// https://developer.apple.com/documentation/foundation/date
public struct Date: Hashable, Sendable {
    public init() {}
    public func timeIntervalSince(_ date: Date) -> TimeInterval { 0 }
    /// https://developer.apple.com/documentation/foundation/date/iso8601formatstyle
    public struct ISO8601FormatStyle: Sendable {}
    @available(macOS 12.0, iOS 15.0, *)
    public func formatted(_ format: ISO8601FormatStyle) -> String { "" }
}

extension Date.ISO8601FormatStyle {
    @available(macOS 12.0, iOS 15.0, *)
    public static var iso8601: Date.ISO8601FormatStyle { fatalError() }
}

/// https://developer.apple.com/documentation/objectivec/nsobject-swift.class
open class NSObject: Hashable {
    public init() {}
    public static func == (first: NSObject, second: NSObject) -> Bool { first === second }
    public func hash(into hasher: inout Hasher) {}
}

/// https://developer.apple.com/documentation/foundation/nsnumber
open class NSNumber: NSObject, @unchecked Sendable {
    public init(value: Int) {}
    public var intValue: Int { 0 }
    public var objCType: UnsafePointer<CChar> { fatalError() }
}

/// https://developer.apple.com/documentation/foundation/nsdictionary
open class NSDictionary: NSObject {
    public override init() {}
    public init(dictionary: [String: Any]) {}
}

/// https://developer.apple.com/documentation/foundation/cocoaerror
public struct CocoaError: Error {
    public var userInfo: [String: Any] { [:] }
}

/// https://developer.apple.com/documentation/foundation/localizederror
public protocol LocalizedError: Error {
    var errorDescription: String? { get }
}

extension Error {
    public var localizedDescription: String { "" }
}

/// https://developer.apple.com/documentation/objectivec/objcbool
public struct ObjCBool: ExpressibleByBooleanLiteral, Sendable {
    public init(booleanLiteral value: Bool) {}
    public var boolValue: Bool { false }
}

/// https://developer.apple.com/documentation/foundation/nslock
open class NSLock: NSObject, @unchecked Sendable {
    public override init() {}
    public func withLock<R>(_ body: () throws -> R) rethrows -> R { try body() }
}

/// https://developer.apple.com/documentation/foundation/fileattributekey
public struct FileAttributeKey: Hashable, Sendable {
    public static let size = FileAttributeKey()
    public static let modificationDate = FileAttributeKey()
}

/// https://developer.apple.com/documentation/foundation/filemanager
open class FileManager: NSObject, @unchecked Sendable {
    public enum SearchPathDirectory: UInt, Sendable { case documentDirectory = 9, cachesDirectory = 13, applicationSupportDirectory = 14 }
    public struct SearchPathDomainMask: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }
        public static let userDomainMask = SearchPathDomainMask(rawValue: 1)
    }
    public class var `default`: FileManager { fatalError() }
    public func url(
        for directory: SearchPathDirectory, in domain: SearchPathDomainMask, appropriateFor url: URL?, create shouldCreate: Bool
    ) throws -> URL { fatalError() }
    public func createDirectory(
        at url: URL, withIntermediateDirectories createIntermediates: Bool, attributes: [FileAttributeKey: Any]? = nil
    ) throws {}
    @discardableResult
    public func createFile(atPath path: String, contents data: Data?, attributes: [FileAttributeKey: Any]? = nil) -> Bool { false }
    public func removeItem(at url: URL) throws {}
    public func moveItem(at source: URL, to destination: URL) throws {}
    public func fileExists(atPath path: String) -> Bool { false }
    public func fileExists(atPath path: String, isDirectory: UnsafeMutablePointer<ObjCBool>?) -> Bool { false }
    public func attributesOfItem(atPath path: String) throws -> [FileAttributeKey: Any] { [:] }
    public func setAttributes(_ attributes: [FileAttributeKey: Any], ofItemAtPath path: String) throws {}
    public func contentsOfDirectory(atPath path: String) throws -> [String] { [] }
}

/// https://developer.apple.com/documentation/foundation/filehandle
open class FileHandle: NSObject, @unchecked Sendable {
    public class var standardOutput: FileHandle { fatalError() }
    public convenience init(forReadingFrom url: URL) throws { fatalError() }
    public convenience init(forWritingTo url: URL) throws { fatalError() }
    public func write(_ data: Data) {}
    @available(macOS 10.15.4, iOS 13.4, *)
    public func write<T: DataProtocol>(contentsOf data: T) throws {}
    @available(macOS 10.15.4, iOS 13.4, *)
    public func read(upToCount count: Int) throws -> Data? { nil }
    @available(macOS 10.15.4, iOS 13.4, *)
    @discardableResult public func seekToEnd() throws -> UInt64 { 0 }
    @available(macOS 10.15, iOS 13.0, *)
    public func close() throws {}
}

/// https://developer.apple.com/documentation/foundation/operatingsystemversion
public struct OperatingSystemVersion: Sendable {
    public var majorVersion = 0
    public var minorVersion = 0
    public var patchVersion = 0
}

/// https://developer.apple.com/documentation/foundation/processinfo
open class ProcessInfo: NSObject, @unchecked Sendable {
    public enum ThermalState: Int, Sendable { case nominal, fair, serious, critical }
    public class var processInfo: ProcessInfo { fatalError() }
    public var arguments: [String] { [] }
    public var environment: [String: String] { [:] }
    public var operatingSystemVersion: OperatingSystemVersion { OperatingSystemVersion() }
    public var physicalMemory: UInt64 { 0 }
    public var activeProcessorCount: Int { 0 }
    @available(macOS 12.0, iOS 9.0, *)
    public var isLowPowerModeEnabled: Bool { false }
    @available(macOS 10.10.3, iOS 11.0, *)
    public var thermalState: ThermalState { .nominal }
    @available(macOS 10.10.3, iOS 11.0, *)
    public class var thermalStateDidChangeNotification: Notification.Name { fatalError() }
}

/// https://developer.apple.com/documentation/foundation/notification
public struct Notification {
    public struct Name: Hashable, Sendable {}
}

/// https://developer.apple.com/documentation/foundation/notificationcenter
open class NotificationCenter: NSObject, @unchecked Sendable {
    public class var `default`: NotificationCenter { fatalError() }
    /// https://developer.apple.com/documentation/foundation/notificationcenter/notifications
    @available(macOS 12.0, iOS 15.0, *)
    public final class Notifications: AsyncSequence, @unchecked Sendable {
        public typealias Element = Notification
        public struct Iterator: AsyncIteratorProtocol { public mutating func next() async -> Notification? { nil } }
        public func makeAsyncIterator() -> Iterator { Iterator() }
    }
    @available(macOS 12.0, iOS 15.0, *)
    public func notifications(named name: Notification.Name, object: AnyObject? = nil) -> Notifications { fatalError() }
}

/// https://developer.apple.com/documentation/foundation/jsonencoder
open class JSONEncoder {
    public struct OutputFormatting: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }
        public static let prettyPrinted = OutputFormatting(rawValue: 1)
        @available(macOS 10.13, iOS 11.0, *)
        public static let sortedKeys = OutputFormatting(rawValue: 2)
        @available(macOS 10.15, iOS 13.0, *)
        public static let withoutEscapingSlashes = OutputFormatting(rawValue: 8)
    }
    public init() {}
    public var outputFormatting: OutputFormatting = []
    public func encode<T: Encodable>(_ value: T) throws -> Data { Data() }
}

/// https://developer.apple.com/documentation/foundation/jsondecoder
open class JSONDecoder {
    public init() {}
    public func decode<T: Decodable>(_ type: T.Type, from data: Data) throws -> T { fatalError() }
}

/// https://developer.apple.com/documentation/foundation/jsonserialization
open class JSONSerialization {
    public struct ReadingOptions: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }
        public static let fragmentsAllowed = ReadingOptions(rawValue: 4)
    }
    public class func jsonObject(with data: Data, options: ReadingOptions = []) throws -> Any { 0 }
    public class func data(withJSONObject object: Any) throws -> Data { Data() }
}

extension String {
    /// https://developer.apple.com/documentation/swift/string/encoding
    public struct Encoding: Sendable { public static let utf8 = Encoding() }
    public init?(data: Data, encoding: Encoding) { nil }
    public init(contentsOf url: URL, encoding: Encoding) throws { self = "" }
    public init(format: String, _ arguments: any CVarArg...) { self = "" }
    public var precomposedStringWithCanonicalMapping: String { self }
}

extension StringProtocol {
    public func replacingOccurrences<A: StringProtocol, B: StringProtocol>(of target: A, with replacement: B) -> String { "" }
}

/// https://developer.apple.com/documentation/foundation/urlrequest
public struct URLRequest: Sendable {
    public init(url: URL) {}
    public mutating func setValue(_ value: String?, forHTTPHeaderField field: String) {}
}

/// https://developer.apple.com/documentation/foundation/urlresponse
open class URLResponse: NSObject, @unchecked Sendable {
    public var expectedContentLength: Int64 { 0 }
}

/// https://developer.apple.com/documentation/foundation/httpurlresponse
open class HTTPURLResponse: URLResponse, @unchecked Sendable {
    public var statusCode: Int { 0 }
    @available(macOS 10.15, iOS 13.0, *)
    public func value(forHTTPHeaderField field: String) -> String? { nil }
}

/// https://developer.apple.com/documentation/foundation/urlerror
public struct URLError: Error {
    public struct Code: Equatable, Sendable { public static let cancelled = Code() }
    public var code: Code { .cancelled }
}

/// https://developer.apple.com/documentation/foundation/urlsessionconfiguration
open class URLSessionConfiguration: NSObject, @unchecked Sendable {
    public class var `default`: URLSessionConfiguration { fatalError() }
}

/// https://developer.apple.com/documentation/foundation/urlsessiontask
open class URLSessionTask: NSObject, @unchecked Sendable {
    public func resume() {}
    public func cancel() {}
}

/// https://developer.apple.com/documentation/foundation/urlsessiondatatask
open class URLSessionDataTask: URLSessionTask, @unchecked Sendable {}

/// https://developer.apple.com/documentation/foundation/operationqueue
open class OperationQueue: NSObject, @unchecked Sendable {}

/// https://developer.apple.com/documentation/foundation/urlsessiondelegate
public protocol URLSessionDelegate: NSObject, Sendable {}

/// https://developer.apple.com/documentation/foundation/urlsessiondatadelegate
public protocol URLSessionDataDelegate: URLSessionDelegate {
    func urlSession(
        _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
        completionHandler: @escaping @Sendable (URLSession.ResponseDisposition) -> Void
    )
    func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data)
    func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?)
}

/// https://developer.apple.com/documentation/foundation/urlsession
open class URLSession: NSObject, @unchecked Sendable {
    public enum ResponseDisposition: Int, Sendable { case cancel, allow }
    public init(configuration: URLSessionConfiguration, delegate: (any URLSessionDelegate)?, delegateQueue queue: OperationQueue?) {}
    public func dataTask(with request: URLRequest) -> URLSessionDataTask { fatalError() }
    public func finishTasksAndInvalidate() {}
}
