/// What an engine tells of where operators run: one operation of a program as it describes it.
///
/// Constants are no operators: they hold weights, and run nowhere.
public struct DescribedOperation: Sendable {
    public var type: String
    public var outputs: [String]
    /// (where it is to run, where it could run); nil: the engine does not tell.
    public var usage: (preferred: Processor, supported: [Processor])?
    public var cost: Double?

    public init(type: String, outputs: [String], usage: (preferred: Processor, supported: [Processor])?, cost: Double?) {
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
public func placement(of operations: [DescribedOperation], program: String, function: String) -> [PlacedOperator] {
    operations.filter { !$0.isConstant }.map { operation in
        PlacedOperator(
            program: program, function: function, type: operation.type, output: operation.outputs.first,
            preferred: operation.usage?.preferred, supported: operation.usage?.supported ?? [], cost: operation.cost
        )
    }
}

/// For example "Neural Engine 512, CPU 31"; nil when nothing is known.
public func operatorCounts(_ operators: [PlacedOperator]) -> String? {
    let names: [(Processor, String)] = [(.neuralEngine, "Neural Engine"), (.gpu, "GPU"), (.cpu, "CPU"), (.other, "other")]
    let counts = names.compactMap { processor, name in
        let count = operators.count(where: { $0.preferred == processor })
        return count == 0 ? nil : "\(name) \(count)"
    }
    return counts.isEmpty ? nil : counts.joined(separator: ", ")
}
