/// Deflate as RFC 1951 has it, read in one go and given out in pieces: no more than a window of 32 KiB is ever held.
///
/// Foundation has a decoder on Apple's systems alone, and none that stops at a size that is given beforehand.
struct Inflate {
    enum Problem: Error {
        /// The data end too early, or are no deflate stream.
        case damaged
        /// They give more bytes than were asked for.
        case tooLong
    }

    private static let windowBytes = 1 << 15

    private let input: UnsafeRawBufferPointer
    private var place = 0
    private var bits: UInt64 = 0
    private var bitCount = 0
    private var window = [UInt8](repeating: 0, count: windowBytes)
    private var written = 0
    private let limit: Int
    private let give: (UnsafeRawBufferPointer) throws -> Void

    /// - Parameters:
    ///   - limit: bytes that may come out.
    ///   - give: gets them in order, in pieces of at most 32 KiB.
    /// - Returns: how many came out.
    /// - Throws: ``Problem``, and what `give` throws.
    static func decode(
        _ input: UnsafeRawBufferPointer, limit: Int, give: @escaping (UnsafeRawBufferPointer) throws -> Void
    ) throws -> Int {
        var decoder = Inflate(input: input, limit: limit, give: give)
        return try decoder.run()
    }

    private init(input: UnsafeRawBufferPointer, limit: Int, give: @escaping (UnsafeRawBufferPointer) throws -> Void) {
        self.input = input
        self.limit = limit
        self.give = give
    }

    private mutating func run() throws -> Int {
        var isLast = false
        while !isLast {
            isLast = try read(1) == 1
            switch try read(2) {
            case 0: try stored()
            case 1: try codes(Self.fixedLiterals, Self.fixedDistances)
            case 2:
                let (literals, distances) = try dynamicCodes()
                try codes(literals, distances)
            default: throw Problem.damaged
            }
        }
        try flush(written & (Self.windowBytes - 1))
        return written
    }

    // MARK: bits, lowest first

    private mutating func refill() {
        while bitCount <= 56, place < input.count {
            bits |= UInt64(input[place]) << UInt64(bitCount)
            place += 1
            bitCount += 8
        }
    }

    private mutating func read(_ count: Int) throws -> Int {
        if bitCount < count { refill() }
        guard bitCount >= count else { throw Problem.damaged }
        let value = Int(bits & (1 << UInt64(count) - 1))
        bits >>= UInt64(count)
        bitCount -= count
        return value
    }

    private mutating func symbol(_ code: HuffmanCode) throws -> Int {
        if bitCount < HuffmanCode.longest { refill() }
        guard let (symbol, length) = code.decode(bits), length <= bitCount else { throw Problem.damaged }
        bits >>= UInt64(length)
        bitCount -= length
        return symbol
    }

    // MARK: output

    private mutating func put(_ byte: UInt8) throws {
        guard written < limit else { throw Problem.tooLong }
        window[written & (Self.windowBytes - 1)] = byte
        written += 1
        if written & (Self.windowBytes - 1) == 0 { try flush(Self.windowBytes) }
    }

    private func flush(_ count: Int) throws {
        if count > 0 { try window.withUnsafeBytes { try give(UnsafeRawBufferPointer(rebasing: $0[..<count])) } }
    }

    // MARK: blocks

    private mutating func stored() throws {
        _ = try read(bitCount & 7)
        let (length, inverse) = (try read(16), try read(16))
        guard length == ~inverse & 0xFFFF else { throw Problem.damaged }
        for _ in 0..<length { try put(UInt8(try read(8))) }
    }

    private mutating func codes(_ literals: HuffmanCode, _ distances: HuffmanCode) throws {
        while true {
            let found = try symbol(literals)
            if found < 256 {
                try put(UInt8(found))
                continue
            }
            if found == 256 { return }
            guard found - 257 < Self.lengths.count else { throw Problem.damaged }
            let (base, extra) = Self.lengths[found - 257]
            let length = base + (try read(extra))
            let step = try symbol(distances)
            guard step < Self.distances.count else { throw Problem.damaged }
            let distance = Self.distances[step].base + (try read(Self.distances[step].extra))
            guard distance <= written else { throw Problem.damaged }
            for _ in 0..<length { try put(window[(written - distance) & (Self.windowBytes - 1)]) }
        }
    }

    private mutating func dynamicCodes() throws -> (HuffmanCode, HuffmanCode) {
        let (literals, distances, own) = (try read(5) + 257, try read(5) + 1, try read(4) + 4)
        guard literals <= 286, distances <= 30 else { throw Problem.damaged }
        var ownLengths = [UInt8](repeating: 0, count: 19)
        for index in 0..<own { ownLengths[Self.order[index]] = UInt8(try read(3)) }
        let code = try HuffmanCode(ownLengths)
        var lengths: [UInt8] = []
        while lengths.count < literals + distances {
            let found = try symbol(code)
            switch found {
            case 0..<16: lengths.append(UInt8(found))
            case 16:
                guard let last = lengths.last else { throw Problem.damaged }
                lengths += [UInt8](repeating: last, count: 3 + (try read(2)))
            case 17: lengths += [UInt8](repeating: 0, count: 3 + (try read(3)))
            default: lengths += [UInt8](repeating: 0, count: 11 + (try read(7)))
            }
        }
        guard lengths.count == literals + distances, lengths[256] > 0 else { throw Problem.damaged }
        return (try HuffmanCode(Array(lengths[..<literals])), try HuffmanCode(Array(lengths[literals...])))
    }

    // MARK: section 3.2.5 and 3.2.6

    private static let order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
    private static let lengths: [(base: Int, extra: Int)] = {
        var (table, base): ([(Int, Int)], Int) = ([], 3)
        for index in 0..<28 {
            let extra = index < 8 ? 0 : (index - 4) / 4
            table.append((base, extra))
            base += 1 << extra
        }
        return table + [(258, 0)]
    }()
    private static let distances: [(base: Int, extra: Int)] = {
        var (table, base): ([(Int, Int)], Int) = ([], 1)
        for index in 0..<30 {
            let extra = index < 4 ? 0 : (index - 2) / 2
            table.append((base, extra))
            base += 1 << extra
        }
        return table
    }()
    // Complete codes by construction, so that neither is refused.
    private static let fixedLiterals = HuffmanCode(complete: (0..<288).map { $0 < 144 ? 8 : $0 < 256 ? 9 : $0 < 280 ? 7 : 8 })
    private static let fixedDistances = HuffmanCode(complete: [UInt8](repeating: 5, count: 32))
}

/// A canonical Huffman code (RFC 1951, section 3.2.2): short codes by one look into a table, longer ones bit by bit.
struct HuffmanCode {
    static let longest = 15
    private static let tableBits = 9

    /// By the next nine bits: symbol times 16 and length; 0 where the code is longer.
    private let table: [UInt16]
    /// Codes of each length.
    private let counts: [Int]
    /// Symbols in the order of their codes.
    private let symbols: [UInt16]

    /// - Parameter lengths: of each symbol's code, 0 where it has none.
    /// - Throws: `Inflate.Problem.damaged` when more codes are asked for than there are.
    init(_ lengths: [UInt8]) throws {
        var counts = [Int](repeating: 0, count: Self.longest + 1)
        for length in lengths { counts[Int(length)] += 1 }
        counts[0] = 0
        var left = 1
        for length in 1...Self.longest {
            left = left * 2 - counts[length]
            guard left >= 0 else { throw Inflate.Problem.damaged }
        }
        self.init(lengths, counts)
    }

    init(complete lengths: [UInt8]) {
        var counts = [Int](repeating: 0, count: Self.longest + 1)
        for length in lengths where length > 0 { counts[Int(length)] += 1 }
        self.init(lengths, counts)
    }

    private init(_ lengths: [UInt8], _ counts: [Int]) {
        var (code, first) = (0, [Int](repeating: 0, count: Self.longest + 2))
        var starts = [Int](repeating: 0, count: Self.longest + 2)
        for length in 1...Self.longest {
            first[length] = code
            starts[length + 1] = starts[length] + counts[length]
            code = (code + counts[length]) << 1
        }
        var (symbols, next) = ([UInt16](repeating: 0, count: lengths.count), first)
        var (places, table) = (starts, [UInt16](repeating: 0, count: 1 << Self.tableBits))
        for (symbol, length) in lengths.enumerated() where length > 0 {
            let length = Int(length)
            symbols[places[length]] = UInt16(symbol)
            places[length] += 1
            if length <= Self.tableBits {
                // Codes come highest bit first, the stream lowest first.
                var reversed = 0
                for bit in 0..<length where next[length] >> bit & 1 == 1 { reversed |= 1 << (length - 1 - bit) }
                for high in stride(from: reversed, to: 1 << Self.tableBits, by: 1 << length) {
                    table[high] = UInt16(symbol << 4 | length)
                }
            }
            next[length] += 1
        }
        (self.table, self.counts, self.symbols) = (table, counts, symbols)
    }

    /// The symbol whose code these bits begin with, and its length; nil: there is none.
    func decode(_ bits: UInt64) -> (symbol: Int, length: Int)? {
        let entry = table[Int(bits & (1 << UInt64(Self.tableBits) - 1))]
        if entry > 0 { return (Int(entry >> 4), Int(entry & 15)) }
        var (code, first, index) = (0, 0, 0)
        for length in 1...Self.longest {
            code |= Int(bits >> UInt64(length - 1) & 1)
            let count = counts[length]
            if code - first < count { return (Int(symbols[index + code - first]), length) }
            index += count
            first = (first + count) << 1
            code <<= 1
        }
        return nil
    }
}
