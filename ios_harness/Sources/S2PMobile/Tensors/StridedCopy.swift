/// Copies between C-order float32 and a strided buffer of float32 or float16, the layout of Core ML's multi-arrays.
package enum StridedCopy {
    package enum Element: Sendable {
        case float16, float32

        var bytes: Int { self == .float16 ? 2 : 4 }
    }

    /// Writes `values` (C order, `shape`) to `buffer` with `strides` in elements.
    package static func write(
        _ values: [Float], shape: [Int], to buffer: UnsafeMutableRawBufferPointer, strides: [Int], as element: Element
    ) throws(S2PError) {
        guard elementCount(shape) == values.count, fits(shape, strides, element, buffer.count) else {
            throw .shapeMismatch(what: "a buffer of \(buffer.count) bytes", found: strides, expected: shape)
        }
        var position = 0
        forEachOffset(shape: shape, strides: strides) { offset in
            switch element {
            case .float32: buffer.storeBytes(of: values[position], toByteOffset: 4 * offset, as: Float.self)
            case .float16: buffer.storeBytes(of: HalfPrecision.bits(values[position]), toByteOffset: 2 * offset, as: UInt16.self)
            }
            position += 1
        }
    }

    /// Reads a buffer of `shape` with `strides` in elements into C order.
    package static func read(
        _ buffer: UnsafeRawBufferPointer, shape: [Int], strides: [Int], as element: Element
    ) throws(S2PError) -> [Float] {
        guard let count = elementCount(shape), fits(shape, strides, element, buffer.count) else {
            throw .shapeMismatch(what: "a buffer of \(buffer.count) bytes", found: strides, expected: shape)
        }
        var values: [Float] = []
        values.reserveCapacity(count)
        forEachOffset(shape: shape, strides: strides) { offset in
            switch element {
            case .float32: values.append(buffer.loadUnaligned(fromByteOffset: 4 * offset, as: Float.self))
            case .float16: values.append(HalfPrecision.float(buffer.loadUnaligned(fromByteOffset: 2 * offset, as: UInt16.self)))
            }
        }
        return values
    }

    private static func fits(_ shape: [Int], _ strides: [Int], _ element: Element, _ bytes: Int) -> Bool {
        guard shape.count == strides.count, shape.allSatisfy({ $0 >= 0 }), strides.allSatisfy({ $0 >= 0 }) else { return false }
        if shape.contains(0) { return true }
        var last = 0
        for (size, stride) in zip(shape, strides) {
            let (step, overflow) = stride.multipliedReportingOverflow(by: size - 1)
            let (sum, overflow2) = last.addingReportingOverflow(step)
            if overflow || overflow2 { return false }
            last = sum
        }
        return last < bytes / element.bytes
    }

    private static func forEachOffset(shape: [Int], strides: [Int], _ body: (Int) -> Void) {
        if shape.contains(0) { return }
        var index = [Int](repeating: 0, count: shape.count)
        var offset = 0
        while true {
            body(offset)
            var axis = shape.count - 1
            while axis >= 0 {
                index[axis] += 1
                offset += strides[axis]
                if index[axis] < shape[axis] { break }
                offset -= strides[axis] * shape[axis]
                index[axis] = 0
                axis -= 1
            }
            if axis < 0 { return }
        }
    }
}

/// IEEE 754 binary16 as bits. Swift's Float16 does not exist on Intel Macs.
package enum HalfPrecision {
    package static func float(_ bits: UInt16) -> Float {
        let sign = UInt32(bits & 0x8000) << 16
        let exponent = UInt32(bits >> 10 & 0x1f)
        let fraction = UInt32(bits & 0x3ff)
        switch exponent {
        case 0:
            let magnitude = Float(fraction) * 0x1p-24
            return Float(bitPattern: sign | magnitude.bitPattern)
        case 31:
            return Float(bitPattern: sign | 0x7f80_0000 | fraction << 13)
        default:
            return Float(bitPattern: sign | (exponent + 112) << 23 | fraction << 13)
        }
    }

    /// Rounds to nearest, ties to even; overflows to infinity.
    package static func bits(_ value: Float) -> UInt16 {
        let sign = UInt16(truncatingIfNeeded: value.bitPattern >> 16) & 0x8000
        if value.isNaN { return sign | 0x7e00 }
        let magnitude = value.magnitude
        if magnitude >= 65520 { return sign | 0x7c00 }
        if magnitude < 0x1p-14 {
            // A multiple of 2^-24: scaling is exact, so one rounding is made.
            return sign | UInt16((magnitude * 0x1p24).rounded(.toNearestOrEven))
        }
        let pattern = magnitude.bitPattern
        let rounded = pattern &+ 0xfff &+ (pattern >> 13 & 1)
        return sign | UInt16(truncatingIfNeeded: (rounded &- (112 << 23)) >> 13)
    }
}
