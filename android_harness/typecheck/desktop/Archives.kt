package mobile.s2p

import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import java.io.File
import java.net.InetSocketAddress
import java.util.Random
import kotlinx.coroutines.flow.takeWhile
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import mobile.s2p.archive.BundleArchive

/** Unpacks an archive, which the caller made; what is wrong ends with status 2 and a line. */
fun unpack(archive: File, into: File): Unit = runBlocking { Bundles.unpack(archive, into) }

/** Unpacks every archive of a folder to a folder beside it, and prints for each its name and what is wrong with it. */
fun refuse(archives: File): Unit = runBlocking {
    for (archive in archives.listFiles()!!.sorted()) {
        val message = runCatching { Bundles.unpack(archive, File(archives.parentFile, "out")) }.exceptionOrNull()
        println("${archive.nameWithoutExtension}: ${if (message is S2PException) message.message else message}")
    }
}

private val TOKENS = listOf(
    "PK\u0003\u0004", "PK\u0001\u0002", "PK\u0005\u0006", "PK\u0006\u0006", "\u00ff\u00ff\u00ff\u00ff", "\u0000\u0000\u0000\u0000",
    "../", "/etc/", "-1", "1e999", "9223372036854775807", "null", "{}", "[[", "\"", "\\u0000",
).map { it.toByteArray(Charsets.ISO_8859_1) }

/** Edits as damage and malice make them; half of them in the last kilobytes, where the directory of a zip is. */
private fun mutated(original: ByteArray, random: Random): ByteArray {
    var bytes = original.copyOf()
    repeat(1 + random.nextInt(4)) {
        if (bytes.isEmpty()) return bytes
        val late = random.nextBoolean()
        val at = if (late) maxOf(0, bytes.size - 1 - random.nextInt(3000)) else random.nextInt(bytes.size)
        when (random.nextInt(6)) {
            0 -> bytes[at] = random.nextInt(256).toByte()
            1 -> bytes[at] = (bytes[at].toInt() xor (1 shl random.nextInt(8))).toByte()
            2 -> bytes = bytes.copyOfRange(0, at)
            3 -> TOKENS[random.nextInt(TOKENS.size)].let { it.copyInto(bytes, at, 0, minOf(it.size, bytes.size - at)) }
            4 -> for (i in at until minOf(at + 4, bytes.size)) bytes[i] = -1
            else -> bytes = bytes.copyOfRange(0, at) + bytes.copyOfRange(minOf(bytes.size, at + 1 + random.nextInt(16)), bytes.size)
        }
    }
    return bytes
}

/**
 * Thousands of damaged archives: each is unpacked or refused with [S2PException], leaves nothing half done, and writes nowhere else.
 * The Java machine has a small heap, so that whoever believes a length in a file runs out of memory.
 */
fun fuzz(archive: File, folder: File, count: Int) {
    val original = archive.readBytes()
    val random = Random(20250101)
    val work = File(folder, "work").apply { mkdirs() }
    val damaged = File(work, "a.zip")
    val target = File(work, "a.s2pmobile")
    var refused = 0
    repeat(count) {
        damaged.writeBytes(mutated(original, random))
        try {
            BundleArchive.unpack(damaged, target)
            target.deleteRecursively()
        } catch (_: S2PException) {
            refused++
        }
        val left = work.list()!!.toList() - "a.zip"
        if (left.isNotEmpty() || folder.list()!!.size != 1) throw AssertionError("left behind: $left")
    }
    println("refused $refused of $count")
}

/** A server that knows ranges, unless it is told not to, and drops the first connection half way. */
private class Server(private val content: ByteArray, private val ranges: Boolean) {
    val asked = ArrayList<String?>()
    private val server = HttpServer.create(InetSocketAddress("127.0.0.1", 0), 0)
    val url get() = "http://127.0.0.1:${server.address.port}/bundle.zip"

    init {
        server.createContext("/bundle.zip", ::answer)
        server.start()
    }

    private fun answer(exchange: HttpExchange) {
        val range = exchange.requestHeaders.getFirst("Range")
        asked += range
        val start = if (ranges && range != null) range.removePrefix("bytes=").removeSuffix("-").toInt() else 0
        if (start > 0) exchange.responseHeaders.add("Content-Range", "bytes $start-${content.size - 1}/${content.size}")
        exchange.sendResponseHeaders(if (start > 0) 206 else 200, (content.size - start).toLong())
        val end = if (asked.size == 1) content.size / 2 else content.size
        runCatching { exchange.responseBody.write(content, start, end - start) }
        exchange.close()
    }

    fun stop() = server.stop(0)
}

fun fetch(archive: File, sha256: String, folder: File): Unit = runBlocking {
    for (ranges in listOf(true, false)) {
        val server = Server(archive.readBytes(), ranges)
        val into = File(folder, "ranges-$ranges")
        val broken = runCatching { Bundles.fetch(server.url, sha256, into).toList() }.exceptionOrNull()
        check(broken is S2PException && "broke off" in broken.message!!) { "$broken" }
        val here = into.listFiles()!!.single().length()
        check(here == archive.length() / 2) { "$here bytes are kept" }
        val steps = Bundles.fetch(server.url, sha256, into).toList()
        check(server.asked == listOf(null, "bytes=$here-")) { "${server.asked}" }
        val first = steps.first() as FetchStep.Downloading
        check(first.bytes == (if (ranges) here else 0L) && first.total == archive.length()) { "${first.bytes} of ${first.total}" }
        check(FetchStep.Unpacking in steps)
        val done = steps.last() as FetchStep.Done
        check(into.list()!!.toList() == listOf(done.folder.name)) { "${into.list()!!.toList()}" }
        // It is there: nobody is asked again.
        check(Bundles.fetch(server.url, sha256, into).toList().single() is FetchStep.Done)
        check(server.asked.size == 2)

        val wrong = runCatching { Bundles.fetch(server.url, "0".repeat(64), into).toList() }.exceptionOrNull()
        check(wrong is S2PException && "has the sha256 $sha256" in wrong.message!!) { "$wrong" }
        check(into.list()!!.toList() == listOf(done.folder.name)) { "a wrong file is not kept" }
        // Whoever has enough of it keeps what is there.
        val other = File(folder, "stopped-$ranges")
        Bundles.fetch(server.url, sha256, other).takeWhile { it !is FetchStep.Downloading }.toList()
        server.stop()
    }
    for (url in listOf("http://example.org/a.zip", "ftp://127.0.0.1/a", "file:///etc/passwd")) {
        val refused = runCatching { Bundles.fetch(url, sha256, folder).toList() }.exceptionOrNull()
        check(refused is S2PException && "is not https" in refused.message!!) { "$url: $refused" }
    }
    check(runCatching { Bundles.fetch("https://127.0.0.1/a", "../../x", folder).toList() }.exceptionOrNull() is S2PException)
}
