#if os(iOS)
import os
#endif

/// Which programs of a bundle are in memory together, so that they stay within a budget.
package struct MemoryPlan: Equatable, Sendable {
    package var residency: Residency
    package var chunks: ChunkPolicy

    /// Everything stays where all programs fit; else one component at a time; of a U-Net in several programs one of these at a time
    /// where even they do not fit together. An encoder of pictures counts like the others: where all stay, it lies beside them.
    ///
    /// - Parameters:
    ///   - bundle: sizes of files stand for sizes in memory.
    ///   - budget: bytes for programs; nil: no limit is known.
    package init(for bundle: ModelBundle, budget: Int?) {
        (residency, chunks) = (.resident, .resident)
        guard let budget else { return }
        let manifest = bundle.manifest
        func fits(_ names: some Sequence<String>) -> Bool {
            var left = budget
            for name in names {
                guard let spec = manifest.components[name], let bytes = bundle.bytes(of: spec), bytes <= left else { return false }
                left -= bytes
            }
            return true
        }
        if fits(manifest.components.keys) { return }
        residency = .staged
        if manifest.isChunked, !fits(manifest.unetPrograms) { chunks = .released }
    }

    /// Half of what the system lets this process have: the other half is room for activations and the engine's own copies, which no
    /// size of a file tells. nil where the system names no limit.
    package static var systemBudget: Int? { availableBytes.map { $0 / 2 } }

    /// What this process may still allocate before the system ends it; nil where it does not tell.
    package static var availableBytes: Int? {
        #if os(iOS)
        // 0 means that the process has no limit or has used it up.
        let bytes = os_proc_available_memory()
        return bytes > 0 ? bytes : nil
        #else
        return nil
        #endif
    }
}
