/// A dense float32 array in C order. `data.count` is the product of `shape`.
package struct Tensor: Equatable, Sendable {
    package let shape: [Int]
    package var data: [Float]

    /// - Precondition: `data.count` is the product of `shape`.
    package init(shape: [Int], data: [Float]) {
        precondition(elementCount(shape) == data.count, "\(data.count) numbers do not fill shape \(shape)")
        self.shape = shape
        self.data = data
    }

    /// Zeros of the same shape.
    package var zeros: Tensor { Tensor(shape: shape, data: [Float](repeating: 0, count: data.count)) }

    /// Rows `range` of the first dimension.
    package func rows(_ range: Range<Int>) -> Tensor {
        let row = data.count / max(shape[0], 1)
        return Tensor(shape: [range.count] + shape.dropFirst(), data: Array(data[range.lowerBound * row..<range.upperBound * row]))
    }

    /// Joins along the first dimension; the other dimensions must be equal.
    package static func concatenated(_ parts: [Tensor]) -> Tensor {
        let rows = parts.reduce(0) { $0 + $1.shape[0] }
        return Tensor(shape: [rows] + (parts.first?.shape.dropFirst() ?? []), data: parts.flatMap(\.data))
    }

    /// Throws `shapeMismatch` unless the shape is `expected`.
    package func checked(_ what: String, shape expected: [Int]) throws(S2PError) -> Tensor {
        guard shape == expected else { throw .shapeMismatch(what: what, found: shape, expected: expected) }
        return self
    }
}

/// Product of `shape`; nil when a size is negative or the product does not fit an Int.
package func elementCount(_ shape: [Int]) -> Int? {
    if shape.contains(0) {
        return shape.allSatisfy { $0 >= 0 } ? 0 : nil
    }
    return shape.reduce(Optional(1)) { product, size in
        guard size > 0, let (value, overflow) = product?.multipliedReportingOverflow(by: size), !overflow else { return nil }
        return value
    }
}

/// Largest absolute difference; infinity when a number is not a number.
package func maximumDifference(_ a: Tensor, _ b: Tensor) -> Double {
    zip(a.data, b.data).reduce(0) { largest, pair in
        let difference = abs(Double(pair.0) - Double(pair.1))
        return difference.isNaN ? .infinity : max(largest, difference)
    }
}
