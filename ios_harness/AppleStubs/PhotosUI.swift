// Where a person picks a photo.
import SwiftUI

/// https://developer.apple.com/documentation/photosui/phpickerfilter-swift.struct
@available(iOS 14, macOS 13.0, *)
public struct PHPickerFilter: Sendable {
    public static var images: PHPickerFilter { fatalError() }
}

/// https://developer.apple.com/documentation/photosui/photospickeritem
@available(iOS 16.0, macOS 13.0, *)
public struct PhotosPickerItem: Hashable, Sendable {
    public func loadTransferable<T: Transferable>(type: T.Type) async throws -> T? { nil }
}

/// https://developer.apple.com/documentation/photosui/photospicker
@available(iOS 16.0, macOS 13.0, *)
public struct PhotosPicker<Label: View>: View { public var body: Never { fatalError() } }

@available(iOS 16.0, macOS 13.0, *)
extension PhotosPicker where Label == Text {
    nonisolated public init(_ titleKey: LocalizedStringKey, selection: Binding<PhotosPickerItem?>, matching filter: PHPickerFilter? = nil) {}
}
