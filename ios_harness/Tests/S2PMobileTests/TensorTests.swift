import Foundation
import Testing

@testable import S2PBench
@testable import S2PMobile

@Suite struct SafetensorsTests {
    @Test(arguments: Fixtures.index.tensors)
    func refusesMalformedFile(_ item: Fixtures.MalformedFile) throws {
        let data = try Fixtures.data("malformed/\(item.file)")
        let error = thrownError { _ = try SafetensorsFile(data, name: item.file) }
        #expect(error.map { item.kinds.contains($0.kind) } == true, "\(String(describing: error))")
    }

    @Test func readsFloatsAndIntegers() throws {
        let header = #"{"b":{"dtype":"I32","shape":[2],"data_offsets":[4,12]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#
        let length = (0..<8).map { UInt8(truncatingIfNeeded: header.utf8.count >> (8 * $0)) }
        let bytes: [UInt8] = [0, 0, 0xC0, 0x3F, 1, 0, 0, 0, 0xFE, 0xFF, 0xFF, 0xFF]
        let file = try SafetensorsFile(Data(length + Array(header.utf8) + bytes), name: "x")
        #expect(try file.floats("a") == Tensor(shape: [], data: [1.5]))
        #expect(try file.int32s("b").data == [1, -2])
        #expect(thrownError { _ = try file.floats("b") }?.kind == "bad_tensors")
        #expect(thrownError { _ = try file.floats("c") }?.kind == "bad_tensors")
    }
}

@Suite struct StridedCopyTests {
    @Test(arguments: [StridedCopy.Element.float32, .float16])
    func writesAndReadsPaddedRows(_ element: StridedCopy.Element) throws {
        // Rows of 3 padded to 8, planes of 2 rows padded to 20: values are exact in binary16.
        let (shape, strides) = ([2, 2, 3], [20, 8, 1])
        let values = (0..<12).map { Float($0) * 0.25 - 1 }
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 40 * 4, alignment: 16)
        defer { bytes.deallocate() }
        bytes.initializeMemory(as: UInt8.self, repeating: 0xAB)
        try StridedCopy.write(values, shape: shape, to: bytes, strides: strides, as: element)
        #expect(try StridedCopy.read(UnsafeRawBufferPointer(bytes), shape: shape, strides: strides, as: element) == values)
        let padding = element == .float32 ? 3 * 4 : 3 * 2
        #expect(bytes[padding] == 0xAB)
        #expect(element == .float16 || bytes.loadUnaligned(fromByteOffset: 28 * 4, as: Float.self) == values[9])
    }

    @Test(arguments: [[0, 1], [9, 1], [4, -1], [Int.max, 1], [1]])
    func refusesStridesThatLeaveTheBuffer(_ strides: [Int]) {
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 6 * 4, alignment: 16)
        defer { bytes.deallocate() }
        let fits = strides == [0, 1]
        let error = thrownError {
            try StridedCopy.write([1, 2, 3, 4, 5, 6], shape: [2, 3], to: bytes, strides: strides, as: .float32)
        }
        #expect((error == nil) == fits)
    }

    #if !((os(macOS) || targetEnvironment(macCatalyst)) && arch(x86_64))
    @Test func halfPrecisionIsSwiftsFloat16() {
        // Counted, because an expectation per number takes half a minute.
        func same(_ bits: UInt16, _ exact: Float16) -> Bool {
            bits == exact.bitPattern || (exact.isNaN && Float16(bitPattern: bits).isNaN)
        }
        let read = (UInt16.min...UInt16.max).filter { bits in
            let (mine, exact) = (HalfPrecision.float(bits), Float(Float16(bitPattern: bits)))
            return mine.bitPattern != exact.bitPattern && !(mine.isNaN && exact.isNaN)
        }
        #expect(read.isEmpty)
        var random = SplitMix(state: 1)
        let values = (0..<50_000).map { _ in Float(bitPattern: UInt32(truncatingIfNeeded: random.next())) }
        #expect(values.filter { !same(HalfPrecision.bits($0), Float16($0)) }.isEmpty)
        // Where rounding changes: the middles between neighbours, subnormals and the bound to infinity among them.
        let middles = (UInt16(0)..<0x7C00).map { bits in
            let above = bits == 0x7BFF ? 65536 : Double(Float16(bitPattern: bits + 1))
            return Float((Double(Float16(bitPattern: bits)) + above) / 2)
        }
        #expect(middles.filter { !same(HalfPrecision.bits($0), Float16($0)) }.isEmpty)
    }
    #endif
}

@Suite struct PictureTests {
    @Test func roundsHalfToEvenAndClamps() throws {
        // x / 2 + 0.5 = level / 255 for levels 0.5, 1.5, 2.5 is not exact in float32, so use levels that are: -1, 0, 1, beyond.
        let image = Tensor(shape: [1, 3, 1, 2], data: [-1, 1, 0, -7, 9, .nan])
        let picture = try Picture(image)
        // 0 -> 0.5 * 255 = 127.5 -> 128 (even).
        #expect(picture.rgb == [0, 128, 255, 255, 0, 0])
        #expect(picture.width == 2 && picture.height == 1)
    }

    @Test func refusesOtherShapes() {
        #expect(thrownError { _ = try Picture(Tensor(shape: [3, 1, 1], data: [0, 0, 0])) }?.kind == "shape_mismatch")
    }
}

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (2014): deterministic test data.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }
}
