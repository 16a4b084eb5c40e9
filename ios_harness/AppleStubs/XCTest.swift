// What the device test uses.
@_exported import Foundation

/// https://developer.apple.com/documentation/xctest/xctattachment
open class XCTAttachment: @unchecked Sendable {
    public init(contentsOfFile url: URL) {}
}

/// https://developer.apple.com/documentation/xctest/xctestcase
open class XCTestCase {
    public init() {}
    public func add(_ attachment: XCTAttachment) {}
}

/// https://developer.apple.com/documentation/xctest/xctskipif(_:_:file:line:)
public func XCTSkipIf(
    _ expression: @autoclosure () throws -> Bool, _ message: @autoclosure () -> String? = nil, file: StaticString = #filePath, line: UInt = #line
) throws {}

/// https://developer.apple.com/documentation/xctest/xctassertnil(_:_:file:line:)
public func XCTAssertNil(
    _ expression: @autoclosure () throws -> Any?, _ message: @autoclosure () -> String = "", file: StaticString = #filePath, line: UInt = #line
) {}
