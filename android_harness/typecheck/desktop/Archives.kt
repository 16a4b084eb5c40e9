package mobile.s2p

import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import java.io.File
import java.net.InetSocketAddress
import kotlinx.coroutines.flow.takeWhile
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking

/** Unpacks an archive, which the caller made; what is wrong ends with status 2 and a line. */
fun unpack(archive: File, into: File): Unit = runBlocking { Bundles.unpack(archive, into) }

/** Unpacks every archive of a folder to a folder beside it, and prints for each its name and what is wrong with it. */
fun refuse(archives: File): Unit = runBlocking {
    for (archive in archives.listFiles()!!.sorted()) {
        val message = runCatching { Bundles.unpack(archive, File(archives.parentFile, "out")) }.exceptionOrNull()
        println("${archive.nameWithoutExtension}: ${if (message is S2PException) message.message else message}")
    }
}

/** A server that knows ranges, unless it is told not to, tells the size, unless it is told not to, and drops the first connection half way. */
private class Server(
    private val content: ByteArray, private val ranges: Boolean, private val tells: Boolean = true, private val whole: Boolean = false,
) {
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
        exchange.sendResponseHeaders(if (start > 0) 206 else 200, if (tells) (content.size - start).toLong() else 0)
        val end = if (asked.size == 1 && !whole) content.size / 2 else content.size
        runCatching { exchange.responseBody.write(content, start, end - start) }
        exchange.close()
    }

    fun stop() = server.stop(0)
}

/** An archive of a byte more than it may have: refused before it is fetched, on the way where the server does not tell, and nothing is kept. */
private suspend fun tooLarge(archive: File, sha256: String, into: File, ranges: Boolean) {
    val most = archive.length() - 1
    for (tells in listOf(true, false)) {
        val server = Server(archive.readBytes(), ranges, tells, whole = true)
        val refused = runCatching { Bundles.fetch(server.url, sha256, into, most).toList() }.exceptionOrNull()
        check(refused is S2PException && "has more than $most bytes; check the address" in refused.message!!) { "$refused" }
        check(into.list()!!.isEmpty()) { "a part of what is too large is kept" }
        check(Bundles.fetch(server.url, sha256, into, most + 1).toList().last() is FetchStep.Done)
        into.deleteRecursively()
        server.stop()
    }
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
        tooLarge(archive, sha256, File(folder, "large-$ranges"), ranges)
    }
    for (url in listOf("http://example.org/a.zip", "ftp://127.0.0.1/a", "file:///etc/passwd")) {
        val refused = runCatching { Bundles.fetch(url, sha256, folder).toList() }.exceptionOrNull()
        check(refused is S2PException && "is not https" in refused.message!!) { "$url: $refused" }
    }
    check(runCatching { Bundles.fetch("https://127.0.0.1/a", "../../x", folder).toList() }.exceptionOrNull() is S2PException)
}
