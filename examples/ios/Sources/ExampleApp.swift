import SwiftUI

/// One screen that draws.
@main
struct ExampleApp: App {
    var body: some Scene {
        WindowGroup { DrawScreen() }
    }
}
