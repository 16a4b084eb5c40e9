/// One processor of a device.
package enum Processor: String, Codable, Sendable, CaseIterable {
    case neuralEngine = "neural-engine"
    case gpu, cpu, other
}

/// Where the engine means to run one operator of a program.
package struct PlacedOperator: Codable, Equatable, Sendable {
    /// Component of the bundle.
    package var program: String
    package var function: String
    /// As the engine names it.
    package var type: String
    /// Name of its first output.
    @Nullable package var output: String?
    /// Where it is to run; nil: the engine does not tell.
    @Nullable package var preferred: Processor?
    /// Where it could run.
    package var supported: [Processor]
    /// Estimated share of the work of its program, 0 to 1; nil: the engine does not tell.
    @Nullable package var cost: Double?

    package init(
        program: String, function: String, type: String, output: String?, preferred: Processor?, supported: [Processor], cost: Double?
    ) {
        self.program = program
        self.function = function
        self.type = type
        _output = Nullable(wrappedValue: output)
        _preferred = Nullable(wrappedValue: preferred)
        self.supported = supported
        _cost = Nullable(wrappedValue: cost)
    }
}

/// What an engine tells of where operators run: one operation of a program as it describes it.
///
/// Constants are no operators: they hold weights, and run nowhere.
package struct DescribedOperation: Sendable {
    package var type: String
    package var outputs: [String]
    /// (where it is to run, where it could run); nil: the engine does not tell.
    package var usage: (preferred: Processor, supported: [Processor])?
    package var cost: Double?

    package init(type: String, outputs: [String], usage: (preferred: Processor, supported: [Processor])?, cost: Double?) {
        self.type = type
        self.outputs = outputs
        self.usage = usage
        self.cost = cost
    }

    /// `const` and `constexpr_...`, with the version of the operator set in front or without.
    var isConstant: Bool {
        let name = type.split(separator: ".").last.map(String.init) ?? type
        return name == "const" || name.hasPrefix("constexpr_")
    }
}

/// The report's entries for the operations of a function, in their order.
package func placement(of operations: [DescribedOperation], program: String, function: String) -> [PlacedOperator] {
    operations.filter { !$0.isConstant }.map { operation in
        PlacedOperator(
            program: program, function: function, type: operation.type, output: operation.outputs.first,
            preferred: operation.usage?.preferred, supported: operation.usage?.supported ?? [], cost: operation.cost
        )
    }
}

/// For example "Neural Engine 96 % of the work (512 operators), CPU 4 % (31)"; nil when nothing is known. Weighed by the engine's
/// estimate of each operator's share of its program's work, where it has one for all; else "Neural Engine 512 operators, CPU 31".
package func operatorShares(_ operators: [PlacedOperator]) -> String? {
    let names: [(Processor, String)] = [(.neuralEngine, "Neural Engine"), (.gpu, "GPU"), (.cpu, "CPU"), (.other, "other")]
    let placed = operators.filter { $0.preferred != nil }
    let total = placed.reduce(0) { $0 + ($1.cost ?? 0) }
    let weighed = total > 0 && placed.allSatisfy { $0.cost != nil }
    var parts: [String] = []
    for (processor, name) in names {
        let own = placed.filter { $0.preferred == processor }
        guard !own.isEmpty else { continue }
        let first = parts.isEmpty
        if weighed {
            let share = Int((100 * own.reduce(0) { $0 + ($1.cost ?? 0) } / total).rounded())
            parts.append("\(name) \(share) %\(first ? " of the work" : "") (\(own.count)\(first ? " operators" : ""))")
        } else {
            parts.append("\(name) \(own.count)\(first ? " operators" : "")")
        }
    }
    return parts.isEmpty ? nil : parts.joined(separator: ", ")
}
