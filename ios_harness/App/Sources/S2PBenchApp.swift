import S2PBenchApp
import SwiftUI

@main
struct S2PBenchMain: App {
    var body: some Scene {
        WindowGroup { BenchRoot() }
    }
}
