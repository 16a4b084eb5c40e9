package mobile.s2p.archive

import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.net.HttpURLConnection
import java.net.InetAddress
import java.net.URL
import java.security.MessageDigest
import mobile.s2p.S2PException

/** One file from a server, by its SHA-256, of at most so many bytes; goes on where an earlier try ended. */
internal class Download(private val url: URL, sha256: String, private val into: File, private val maximumBytes: Long?) {
    private val wanted = sha256.lowercase()

    /** Short name of the file, from its hash. */
    val name: String = wanted.take(16)

    /** Where the whole file lies afterwards. */
    val file = File(into, "$name.zip")

    private val partial = File(into, "$name.zip.partial")

    init {
        if (!Regex("[0-9a-f]{64}").matches(wanted)) throw S2PException("'$sha256' is no SHA-256; give 64 hexadecimal digits")
        val local = url.protocol == "http" && runCatching { InetAddress.getByName(url.host).isLoopbackAddress }.getOrDefault(false)
        if (url.protocol != "https" && !local) throw S2PException("$url is not https; give an https address")
    }

    /**
     * @param tell bytes that are here and the total where the server tells it; what it throws ends the download, which may be resumed.
     * @throws S2PException no connection, no space, a larger file, or another one than the hash says.
     */
    suspend fun run(tell: suspend (bytes: Long, total: Long?) -> Unit) {
        if (file.isFile) return
        if (!into.isDirectory && !into.mkdirs()) throw S2PException("cannot write to $into; give another place")
        try {
            receive(tell)
        } catch (error: IOException) {
            throw S2PException("the download of $url broke off (${error.message}); try again, what is here is kept")
        }
        val found = digest(partial)
        if (found != wanted) {
            partial.delete()
            throw S2PException("$url has the sha256 $found, not $wanted; check the address")
        }
        if (!partial.renameTo(file)) throw S2PException("cannot write to $into; give another place")
    }

    private suspend fun receive(tell: suspend (Long, Long?) -> Unit) {
        val here = partial.length()
        val connection = (url.openConnection() as HttpURLConnection).apply {
            connectTimeout = TIMEOUT
            readTimeout = TIMEOUT
            setRequestProperty("Accept-Encoding", "identity")
            if (here > 0) setRequestProperty("Range", "bytes=$here-")
        }
        try {
            val resumed = connection.responseCode == HttpURLConnection.HTTP_PARTIAL &&
                connection.getHeaderField("Content-Range")?.startsWith("bytes $here-") == true
            // Nothing is left to send: the file is whole, or not the one that was begun, which its hash tells.
            if (connection.responseCode == RANGE_NOT_SATISFIABLE) return checkSize(here)
            if (!resumed && connection.responseCode != HttpURLConnection.HTTP_OK) {
                throw S2PException("$url answers ${connection.responseCode} ${connection.responseMessage.orEmpty()}; check the address")
            }
            val start = if (resumed) here else 0
            val total = connection.contentLengthLong.takeIf { it >= 0 }?.plus(start)
            if (total != null) checkSize(total)
            if (total != null && total - start > into.usableSpace) {
                throw S2PException("$url has ${total / 1_000_000} MB and ${into.usableSpace / 1_000_000} MB are free; free some space")
            }
            RandomAccessFile(partial, "rw").use { output ->
                output.setLength(start)
                output.seek(start)
                connection.inputStream.use { input -> copy(input::read, output, start, total, tell) }
            }
        } finally {
            connection.disconnect()
        }
    }

    private fun checkSize(bytes: Long) {
        if (maximumBytes == null || bytes <= maximumBytes) return
        partial.delete()
        throw S2PException("$url has more than $maximumBytes bytes; check the address")
    }

    private suspend fun copy(
        read: (ByteArray) -> Int, output: RandomAccessFile, start: Long, total: Long?, tell: suspend (Long, Long?) -> Unit,
    ) {
        val buffer = ByteArray(BUFFER)
        var bytes = start
        tell(bytes, total)
        while (true) {
            val got = read(buffer)
            if (got < 0) break
            checkSize(bytes + got)
            output.write(buffer, 0, got)
            bytes += got
            tell(bytes, total)
        }
        if (total != null && bytes < total) throw IOException("$bytes of $total bytes")
    }

    private companion object {
        const val TIMEOUT = 30_000
        const val RANGE_NOT_SATISFIABLE = 416
        const val BUFFER = 1 shl 18

        fun digest(file: File): String {
            val digest = MessageDigest.getInstance("SHA-256")
            file.inputStream().use { input ->
                val buffer = ByteArray(BUFFER)
                while (true) {
                    val got = input.read(buffer)
                    if (got < 0) break
                    digest.update(buffer, 0, got)
                }
            }
            return hex(digest)
        }
    }
}
