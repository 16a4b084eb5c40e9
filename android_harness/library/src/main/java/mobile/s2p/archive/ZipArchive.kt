package mobile.s2p.archive

import java.io.Closeable
import java.io.File
import java.io.FilterInputStream
import java.io.IOException
import java.io.InputStream
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.charset.CharacterCodingException
import java.util.zip.CRC32
import java.util.zip.Inflater
import java.util.zip.InflaterInputStream
import mobile.s2p.S2PException

/**
 * The central directory of a zip file (APPNOTE 6.3.10), read strictly: members stored or deflated, zip64 where needed. Refused are
 * links, encryption, two members of one name, names that leave a folder, and members that share bytes or lie outside of the file.
 *
 * Java's own reader does not tell of links and of members that overlap.
 */
internal class ZipArchive(private val path: File) : Closeable {
    /** @property size unpacked, as the directory says; reading gives exactly so many bytes or fails. */
    class Entry internal constructor(
        val name: String,
        val size: Long,
        internal val packed: Long,
        internal val method: Int,
        internal val crc: Long,
        internal val header: Long,
    )

    private val file = try {
        RandomAccessFile(path, "r")
    } catch (error: IOException) {
        throw S2PException("cannot read ${path.name} (${error.message}); check the path")
    }

    /** Members by name, without folders. */
    val entries: Map<String, Entry> = try {
        checked(directory())
    } catch (error: IOException) {
        file.close()
        throw S2PException("cannot read ${path.name} (${error.message}); get it again")
    } catch (error: S2PException) {
        file.close()
        throw error
    }

    /** Bytes of the archive. */
    val length: Long get() = file.length()

    override fun close() = file.close()

    /** The unpacked bytes; one that is damaged fails with [S2PException] at the latest when its end is read. */
    fun open(entry: Entry): InputStream {
        val raw = Section(entry.header + headerBytes(entry), entry.packed)
        val inflater = Inflater(true)
        val unpacked = if (entry.method == STORED) raw else InflaterInputStream(raw, inflater, BUFFER)
        return Checked(unpacked, inflater, entry)
    }

    fun damaged(reason: String): Nothing = throw S2PException("${path.name} is damaged or no archive ($reason); get it again")

    private fun read(offset: Long, count: Int): ByteBuffer {
        if (offset < 0 || count < 0 || offset > file.length() - count) damaged("it ends early")
        val bytes = ByteArray(count)
        file.seek(offset)
        file.readFully(bytes)
        return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
    }

    private class Place(val offset: Long, val bytes: Long, val count: Long)

    /** Where the directory lies: from the record at the end, which a comment of at most 65,535 bytes may follow. */
    private fun place(): Place {
        val tail = minOf(file.length(), END_BYTES + 65535L).toInt()
        val start = file.length() - tail
        val last = read(start, tail)
        val at = (tail - END_BYTES downTo 0).firstOrNull {
            last.getInt(it) == END && it + END_BYTES + last.short(it + 20) == tail
        } ?: damaged("no directory")
        val count = last.short(at + 10)
        val bytes = last.word(at + 12)
        val offset = last.word(at + 16)
        if (count != 0xFFFF && bytes != MAX_WORD && offset != MAX_WORD) return Place(offset, bytes, count.toLong())
        val locator = read(start + at - LOCATOR_BYTES, LOCATOR_BYTES)
        if (locator.getInt(0) != LOCATOR) damaged("no directory")
        val record = read(locator.getLong(8), END64_BYTES)
        if (record.getInt(0) != END64) damaged("no directory")
        return Place(record.getLong(48), record.getLong(40), record.getLong(32))
    }

    private fun directory(): List<Entry> {
        val place = place()
        if (place.bytes < 0 || place.bytes > minOf(file.length(), Int.MAX_VALUE.toLong())) damaged("its directory is too long")
        if (place.count < 0 || place.count > place.bytes / DIRECTORY_BYTES) damaged("its directory is too short")
        val bytes = read(place.offset, place.bytes.toInt())
        val found = ArrayList<Entry>()
        for (index in 0 until place.count) {
            if (bytes.remaining() < DIRECTORY_BYTES || bytes.getInt(bytes.position()) != DIRECTORY) damaged("its directory is wrong")
            val base = bytes.position()
            val nameBytes = bytes.short(base + 28)
            val extraBytes = bytes.short(base + 30)
            val whole = DIRECTORY_BYTES + nameBytes + extraBytes + bytes.short(base + 32)
            if (bytes.remaining() < whole) damaged("its directory is wrong")
            val name = text(bytes, base + DIRECTORY_BYTES, nameBytes)
            entry(bytes, base, name, wide(bytes, base, base + DIRECTORY_BYTES + nameBytes, extraBytes))?.let { found += it }
            bytes.position(base + whole)
        }
        return found
    }

    private fun text(bytes: ByteBuffer, offset: Int, count: Int): String {
        val part = bytes.duplicate().apply { position(offset).limit(offset + count) }
        return try {
            Charsets.UTF_8.newDecoder().decode(part).toString()
        } catch (_: CharacterCodingException) {
            damaged("a name is not UTF-8")
        }
    }

    /** Unpacked and packed size and place of a member; the zip64 field has those that do not fit, in this order. */
    private fun wide(bytes: ByteBuffer, base: Int, extra: Int, extraBytes: Int): List<Long> {
        val sizes = mutableListOf(bytes.word(base + 24), bytes.word(base + 20), bytes.word(base + 42))
        if (sizes.none { it == MAX_WORD }) return sizes
        var at = extra
        while (at + 4 <= extra + extraBytes) {
            val end = at + 4 + bytes.short(at + 2)
            if (end > extra + extraBytes) damaged("its directory is wrong")
            if (bytes.short(at) == ZIP64_FIELD) {
                var next = at + 4
                for (i in sizes.indices) {
                    if (sizes[i] != MAX_WORD) continue
                    if (next + 8 > end) damaged("its directory is wrong")
                    sizes[i] = bytes.getLong(next)
                    next += 8
                }
                return sizes
            }
            at = end
        }
        damaged("its directory is wrong")
    }

    private fun entry(bytes: ByteBuffer, base: Int, name: String, sizes: List<Long>): Entry? {
        val madeByUnix = bytes.get(base + 5).toInt() == 3
        val type = bytes.short(base + 40) shr 12 and 0xF
        val refusal = when {
            name.isEmpty() || name.startsWith('/') || name.any { it == '\\' || it == '\u0000' } -> "a name leaves its folder"
            name.removeSuffix("/").split('/').any { it.isEmpty() || it == "." || it == ".." } -> "a name leaves its folder"
            madeByUnix && type != 0 && type != REGULAR && type != FOLDER -> "$name is a link"
            bytes.short(base + 8) and ENCRYPTED != 0 -> "$name is encrypted"
            bytes.short(base + 10) != STORED && bytes.short(base + 10) != DEFLATED -> "$name is packed in another way"
            sizes.any { it < 0 } -> "a size is wrong"
            bytes.short(base + 10) == STORED && sizes[0] != sizes[1] -> "a size is wrong"
            else -> null
        }
        if (refusal != null) damaged(refusal)
        if (name.endsWith('/')) return null
        return Entry(name, sizes[0], sizes[1], bytes.short(base + 10), bytes.word(base + 16), sizes[2])
    }

    /** The members by name, when none shares a byte with another one or with the directory. */
    private fun checked(found: List<Entry>): Map<String, Entry> {
        val byName = found.associateBy { it.name }
        if (byName.size != found.size) damaged("two members have the same name")
        val end = place().offset
        var taken = 0L
        for (entry in found.sortedBy { it.header }) {
            if (entry.header < taken || entry.packed > end - entry.header) damaged("members overlap")
            taken = entry.header + headerBytes(entry) + entry.packed
            if (taken > end) damaged("members overlap")
        }
        return byName
    }

    /** Length of the header in front of a member's bytes, whose name must be that of the directory. */
    private fun headerBytes(entry: Entry): Int {
        val header = read(entry.header, LOCAL_BYTES)
        val nameBytes = header.short(26)
        if (header.getInt(0) != LOCAL || text(read(entry.header + LOCAL_BYTES, nameBytes), 0, nameBytes) != entry.name) {
            damaged("a member is not where the directory says")
        }
        return LOCAL_BYTES + nameBytes + header.short(28)
    }

    /** Some bytes of the file. Several may be read in turns. */
    private inner class Section(private var at: Long, private var left: Long) : InputStream() {
        override fun read(): Int {
            val one = ByteArray(1)
            return if (read(one, 0, 1) < 0) -1 else one[0].toInt() and 0xFF
        }

        override fun read(bytes: ByteArray, offset: Int, count: Int): Int {
            if (left == 0L) return -1
            file.seek(at)
            val got = file.read(bytes, offset, minOf(count.toLong(), left).toInt())
            if (got < 0) damaged("it ends early")
            at += got
            left -= got
            return got
        }
    }

    /** Gives exactly the bytes that the directory tells of, with the checksum that it tells of. */
    private inner class Checked(stream: InputStream, private val inflater: Inflater, private val entry: Entry) : FilterInputStream(stream) {
        private val crc = CRC32()
        private var got = 0L

        override fun read(): Int {
            val one = ByteArray(1)
            return if (read(one, 0, 1) < 0) -1 else one[0].toInt() and 0xFF
        }

        override fun read(bytes: ByteArray, offset: Int, count: Int): Int {
            if (count == 0) return 0
            val read = try {
                super.read(bytes, offset, count)
            } catch (error: IOException) {
                damaged("${entry.name}: ${error.message}")
            }
            if (read < 0) {
                if (got != entry.size || crc.value != entry.crc) damaged("${entry.name} is not what the directory says")
                return -1
            }
            got += read
            if (got > entry.size) damaged("${entry.name} is larger than the directory says")
            crc.update(bytes, offset, read)
            return read
        }

        override fun close() {
            super.close()
            inflater.end()
        }
    }

    private companion object {
        const val STORED = 0
        const val DEFLATED = 8
        const val ENCRYPTED = 1
        const val REGULAR = 8
        const val FOLDER = 4
        const val MAX_WORD = 0xFFFFFFFFL
        const val ZIP64_FIELD = 1
        const val LOCAL = 0x04034b50
        const val LOCAL_BYTES = 30
        const val DIRECTORY = 0x02014b50
        const val DIRECTORY_BYTES = 46
        const val END = 0x06054b50
        const val END_BYTES = 22
        const val LOCATOR = 0x07064b50
        const val LOCATOR_BYTES = 20
        const val END64 = 0x06064b50
        const val END64_BYTES = 56
        const val BUFFER = 1 shl 16

        fun ByteBuffer.short(offset: Int): Int = getShort(offset).toInt() and 0xFFFF

        fun ByteBuffer.word(offset: Int): Long = getInt(offset).toLong() and MAX_WORD
    }
}
