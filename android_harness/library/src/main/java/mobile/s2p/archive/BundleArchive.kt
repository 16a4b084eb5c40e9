package mobile.s2p.archive

import java.io.File
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream
import java.security.MessageDigest
import mobile.s2p.S2PException

/**
 * The download form of a bundle (docs/formats.md, `ArchiveIndex`): a zip of its files, in which 4-bit weights of some files stand apart,
 * two to a byte. Step by step s2p_runtime.archive, but that nothing is ever in memory as a whole.
 */
internal object BundleArchive {
    /** How much larger than its archive a bundle may be: four bits in a byte, and deflate on what is left, give ten at most. */
    private const val MOST_TIMES_LARGER = 64L
    private const val MOST_INDEX_BYTES = 16L shl 20
    private const val INDEX = "archive.json"
    private const val MANIFEST = "manifest.json"
    private const val BUFFER = 1 shl 16

    private class Listed(val bytes: Long, val sha256: String)

    private class Stretch(val offset: Long, val length: Long)

    /**
     * Writes the bundle to [folder], which appears when everything in it is right.
     *
     * @param goOn called now and then; what it throws ends the work and leaves nothing.
     * @throws S2PException no archive, a newer one, a member that is missing or altered, no space, or [folder] exists.
     */
    fun unpack(archive: File, folder: File, goOn: () -> Unit = {}) {
        if (folder.exists()) throw S2PException("${folder.name} exists; delete it or give another place")
        val scratch = File(folder.path + ".partial")
        scratch.deleteRecursively()
        try {
            if (!scratch.mkdirs()) throw S2PException("cannot write to ${scratch.parent}; give another place")
            ZipArchive(archive).use { Unpacking(it, scratch, archive.name, goOn).run() }
            if (!scratch.renameTo(folder)) throw S2PException("cannot write to ${folder.parent}; give another place")
        } catch (error: IOException) {
            throw S2PException("cannot unpack ${archive.name} (${error.message}); free some space")
        } finally {
            scratch.deleteRecursively()
        }
    }

    private class Unpacking(val zip: ZipArchive, val folder: File, val name: String, val goOn: () -> Unit) {
        fun run() {
            val packed = packed(document(INDEX, "s2p-archive"))
            val text = member(MANIFEST)
            val files = files(document(MANIFEST, "s2p-bundle", text))
            val total = files.values.fold(0L) { sum, file -> sum + minOf(file.bytes, Long.MAX_VALUE - sum) }
            if (total > MOST_TIMES_LARGER * zip.length) zip.damaged("it would be more than $MOST_TIMES_LARGER times larger unpacked")
            if (total > folder.usableSpace) {
                val (needed, free) = listOf(total, folder.usableSpace).map { it / 1_000_000 }
                throw S2PException("$name needs $needed MB and $free MB are free; free some space")
            }
            for ((file, listed) in files) write(file, listed, packed[file])
            place(MANIFEST).writeBytes(text)
        }

        private fun member(member: String): ByteArray {
            val entry = zip.entries[member] ?: zip.damaged("it lacks $member")
            if (entry.size > minOf(MOST_INDEX_BYTES, 4 * zip.length)) zip.damaged("$member is too large")
            return zip.open(entry).use { it.readBytes() }
        }

        private fun document(member: String, format: String, text: ByteArray = member(member)): Map<*, *> {
            val fields = Json.parse(text.decodeToString(), "$member in $name") as? Map<*, *>
            if (fields == null || fields["format"] != format) throw S2PException("$member in $name is not of format $format; get it again")
            val version = fields["version"] as? Long
            if (version == null || version < 1) zip.damaged("$member has no version")
            if (version > 1) throw S2PException("$member in $name has format version $version, this app reads 1; update the app")
            return fields
        }

        private fun files(manifest: Map<*, *>): Map<String, Listed> {
            val files = manifest["files"] as? Map<*, *> ?: zip.damaged("$MANIFEST lists no files")
            return files.entries.associate { (file, entry) ->
                val fields = entry as? Map<*, *>
                val bytes = fields?.get("bytes") as? Long
                val sha256 = fields?.get("sha256") as? String
                if (bytes == null || bytes < 0 || sha256 == null) zip.damaged("$MANIFEST lists $file in another way")
                file as String to Listed(bytes, sha256)
            }
        }

        private fun packed(index: Map<*, *>): Map<String, List<Stretch>> {
            val packed = index["packed"] as? Map<*, *> ?: zip.damaged("$INDEX has no packed")
            return packed.entries.associate { (file, stretches) ->
                file as String to (stretches as? List<*> ?: zip.damaged("$INDEX has other stretches")).map { stretch ->
                    val numbers = (stretch as? List<*>)?.map { it as? Long }
                    val (offset, length) = numbers?.takeIf { it.size == 2 } ?: zip.damaged("$INDEX has other stretches")
                    if (offset == null || length == null || offset < 0 || length < 1) zip.damaged("$INDEX has other stretches")
                    Stretch(offset, length)
                }
            }
        }

        /** A place for [file], below the folder. The names of the manifest are not those that the zip was checked for. */
        private fun place(file: String): File {
            val outside = file.isEmpty() || file.startsWith('/') || file.any { it == '\\' || it == '\u0000' } ||
                file.split('/').any { it.isEmpty() || it == "." || it == ".." }
            if (outside) zip.damaged("$file leaves its folder")
            return File(folder, file).also { it.parentFile?.mkdirs() }
        }

        private fun write(file: String, listed: Listed, stretches: List<Stretch>?) {
            val digest = MessageDigest.getInstance("SHA-256")
            place(file).outputStream().use { stream ->
                val output = Bounded(stream, digest, file, listed.bytes)
                if (stretches == null) {
                    open(file).use { copy(file, it, output, listed.bytes) }
                } else {
                    open("$file.rest").use { rest -> open("$file.nibbles").use { nibbles -> restore(file, rest, nibbles, stretches, listed, output) } }
                }
            }
            val found = hex(digest)
            if (found != listed.sha256) zip.damaged("$file was altered, its sha256 differs")
        }

        private fun open(member: String): InputStream = zip.open(zip.entries[member] ?: zip.damaged("it lacks $member"))

        /** Exactly [count] bytes of [member], and where it [ends] there, no more. */
        private fun copy(member: String, input: InputStream, output: OutputStream, count: Long, ends: Boolean = true) {
            val buffer = ByteArray(BUFFER)
            var left = count
            while (left > 0) {
                goOn()
                val got = input.read(buffer, 0, minOf(left, BUFFER.toLong()).toInt())
                if (got < 0) zip.damaged("$member is shorter than its manifest says")
                output.write(buffer, 0, got)
                left -= got
            }
            if (ends && input.read() >= 0) zip.damaged("$member is longer than its manifest says")
        }

        private fun restore(
            file: String, rest: InputStream, nibbles: InputStream, stretches: List<Stretch>, listed: Listed, output: OutputStream,
        ) {
            var position = 0L
            for (stretch in stretches) {
                if (stretch.offset < position || stretch.length > listed.bytes - stretch.offset) zip.damaged("packed weights in the wrong order")
                copy(file, rest, output, stretch.offset - position, ends = false)
                widen(nibbles, output, stretch.length)
                position = stretch.offset + stretch.length
            }
            copy(file, rest, output, listed.bytes - position)
            if (nibbles.read() >= 0) zip.damaged("packed weights of the wrong size")
        }

        /** Four bits each, the low ones first, to eight with their sign. */
        private fun widen(nibbles: InputStream, output: OutputStream, count: Long) {
            val packed = ByteArray(BUFFER / 2)
            val values = ByteArray(BUFFER)
            var left = count
            while (left > 0) {
                goOn()
                val wanted = minOf((left + 1) / 2, packed.size.toLong()).toInt()
                val got = nibbles.read(packed, 0, wanted)
                if (got < 0) zip.damaged("packed weights of the wrong size")
                for (i in 0 until got) {
                    values[2 * i] = (packed[i].toInt() shl 28 shr 28).toByte()
                    values[2 * i + 1] = (packed[i].toInt() shr 4).toByte()
                }
                val made = minOf(2L * got, left).toInt()
                output.write(values, 0, made)
                left -= made
            }
        }

        /** Hashes what is written, and writes no byte more than the manifest says. */
        private inner class Bounded(val stream: OutputStream, val digest: MessageDigest, val file: String, var left: Long) : OutputStream() {
            override fun write(byte: Int) = write(byteArrayOf(byte.toByte()), 0, 1)

            override fun write(bytes: ByteArray, offset: Int, count: Int) {
                if (count > left) zip.damaged("$file is larger than its manifest says")
                left -= count
                digest.update(bytes, offset, count)
                stream.write(bytes, offset, count)
            }
        }
    }
}

/** What went into a digest, as hexadecimal digits. */
internal fun hex(digest: MessageDigest): String {
    val text = StringBuilder()
    for (byte in digest.digest()) text.append(DIGITS[byte.toInt() shr 4 and 15]).append(DIGITS[byte.toInt() and 15])
    return text.toString()
}

private const val DIGITS = "0123456789abcdef"
