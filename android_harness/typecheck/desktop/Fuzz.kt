package mobile.s2p

import java.io.File
import java.lang.management.ManagementFactory
import java.security.MessageDigest
import java.util.Random
import java.util.zip.ZipEntry
import java.util.zip.ZipFile
import java.util.zip.ZipOutputStream
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import mobile.s2p.archive.BundleArchive
import mobile.s2p.archive.hex
import org.pytorch.executorch.StandIn

private fun expect(holds: Boolean, what: () -> String) {
    if (!holds) throw AssertionError(what())
}

private fun tokens(vararg texts: String) = texts.map { it.toByteArray(Charsets.ISO_8859_1) }

/**
 * Edits as damage and malice make them.
 *
 * @property late half of them come in the last kilobytes, where the directory of a zip is.
 * @property values half of the results are JSON with another value, the rest with edits anywhere, which seldom leave JSON what it is.
 */
private class Mutator(private val tokens: List<ByteArray>, private val late: Boolean = false, private val values: Boolean = false) {
    private val random = Random(20250101)

    operator fun invoke(original: ByteArray): ByteArray {
        if (values && random.nextBoolean()) return valueReplaced(original, random.nextInt(original.size))
        var bytes = original.copyOf()
        repeat(1 + random.nextInt(4)) { if (bytes.isNotEmpty()) bytes = edited(bytes) }
        return bytes
    }

    private fun edited(bytes: ByteArray): ByteArray {
        val behind = late && random.nextBoolean()
        val at = if (behind) maxOf(0, bytes.size - 1 - random.nextInt(3000)) else random.nextInt(bytes.size)
        val token = tokens[random.nextInt(tokens.size)]
        when (random.nextInt(6)) {
            0 -> bytes[at] = random.nextInt(256).toByte()
            1 -> bytes[at] = (bytes[at].toInt() xor (1 shl random.nextInt(8))).toByte()
            2 -> return bytes.copyOfRange(0, at)
            3 -> token.copyInto(bytes, at, 0, minOf(token.size, bytes.size - at))
            4 -> return bytes.copyOfRange(0, at) + token + bytes.copyOfRange(at, bytes.size)
            else -> return bytes.copyOfRange(0, at) + bytes.copyOfRange(minOf(bytes.size, at + 1 + random.nextInt(16)), bytes.size)
        }
        return bytes
    }

    private fun valueReplaced(bytes: ByteArray, at: Int): ByteArray {
        val begin = (at downTo 0).firstOrNull { bytes[it].toInt().toChar() in ":,[" }?.plus(1) ?: at
        val end = (begin until bytes.size).firstOrNull { bytes[it].toInt().toChar() in ",]}\n" } ?: bytes.size
        return bytes.copyOfRange(0, begin) + VALUES[random.nextInt(VALUES.size)] + bytes.copyOfRange(end, bytes.size)
    }
}

private val ZIP_TOKENS = tokens(
    "PK\u0003\u0004", "PK\u0001\u0002", "PK\u0005\u0006", "PK\u0006\u0006", "PK\u0006\u0007", "\u00ff\u00ff\u00ff\u00ff",
    "\u0000\u0000\u0000\u0000", "\u0001\u0000\u0018\u0000", "../", "/etc/",
)
private val JSON_TOKENS = tokens(
    "0", "-1", "1e999", "null", "true", "{}", "[]", "[[", "[".repeat(100), "../", "\"", ",", "}", ":", "\\u0000", "\\ud800", "\\", "\u00ff",
)
private val VALUES = tokens(
    "0", "1", "-1", "-0.0", "1e999", "1e-400", "0.5", "64", "65536", "2147483648", "1099511627776", "9223372036854775807", "9223372036854775808",
    "18446744073709551616", "null", "true", "false", "{}", "[]", "[0]", "[[0, 1]]", "[1, 4, 8, 8]", "{\"a\": 1}", "\"\"", "\"a\"", "\"..\"",
    "\"../outside/unet.pte\"", "\"\\u0000\"", "\"\\ud800\"", "{\"bytes\": 4611686018427387904, \"sha256\": \"\"}",
)

/** Java's memory that this thread asked for until now, bytes. */
private val ownThread = ManagementFactory.getThreadMXBean() as com.sun.management.ThreadMXBean

private fun allocated(work: () -> Unit): Long {
    val before = ownThread.currentThreadAllocatedBytes
    work()
    return ownThread.currentThreadAllocatedBytes - before
}

/** All of this process's memory that ever lay in the machine's, bytes. */
private fun peakOfProcess(): Long =
    File("/proc/self/status").readLines().first { it.startsWith("VmHWM:") }.filter(Char::isDigit).toLong() * 1024

/** Archives of one kind, and what unpacking them takes where nothing is wrong. */
private class Fuzzed(archive: File, private val work: File) {
    val bytes: ByteArray = archive.readBytes()
    val members: Map<String, ByteArray> =
        ZipFile(archive).use { zip -> zip.entries().toList().associate { it.name to zip.getInputStream(it).readBytes() } }
    private val target = File(work, "a.s2pmobile")

    // The first times load classes, too.
    private val usual = List(20) { allocated { expect(refusal(archive) == null) { "$archive is refused" } } }.drop(10).max()

    /** What is wrong with the archive, null when it was unpacked; what is unpacked is looked at and removed. */
    private fun refusal(archive: File): String? = try {
        BundleArchive.unpack(archive, target)
        target.deleteRecursively()
        null
    } catch (error: S2PException) {
        error.message!!
    }

    /** Refusal of these bytes, or null. Nothing may be left or lie elsewhere, and no length may be believed. */
    fun refusal(mutant: ByteArray): String? {
        val damaged = File(work, "a.zip").apply { writeBytes(mutant) }
        var message: String? = null
        bounded(mutant.size) { message = refusal(damaged) }
        val left = work.list()!!.toList() - "a.zip"
        expect(left.isEmpty() && work.parentFile.list()!!.size == 1) { "left behind: $left" }
        expect(message?.contains('\n') != true) { "more than a line: $message" }
        return message
    }

    /** [work] may ask for four times the file beyond what it asks for a file without damage: all pieces together, not only at once. */
    fun bounded(fileBytes: Int, work: () -> Unit) {
        val most = usual + 4L * fileBytes
        // Whoever comes to a line of the program for the first time may load classes: the second time counts then.
        val asked = allocated(work).takeIf { it <= most } ?: allocated(work)
        expect(asked <= most) { "$asked bytes for a file of $fileBytes, and $usual for one without damage" }
    }

    /** An archive with another member, whose checksum is right. */
    fun with(name: String, content: ByteArray): ByteArray = java.io.ByteArrayOutputStream().also { out ->
        ZipOutputStream(out).use { zip ->
            zip.setLevel(1)
            for ((member, data) in members + (name to content)) {
                zip.putNextEntry(ZipEntry(member))
                zip.write(data)
            }
        }
    }.toByteArray()
}

/**
 * Damaged archives, [count] whose bytes are, and half as many whose index or manifest is, with checksums that are right: each is unpacked or
 * refused with [S2PException], leaves nothing half done, writes nowhere else, and asks for no more memory than it has bytes, times four.
 */
fun fuzzArchives(folder: File, count: Int, archives: List<File>) {
    val work = File(folder, "work").apply { mkdirs() }
    val kinds = archives.map { Fuzzed(it, work) }
    val believer = runCatching { kinds.first().bounded(1000) { ByteArray(1 shl 22) } }
    expect(believer.exceptionOrNull() is AssertionError) { "whoever believes a length is not found" }
    val refusals = List(kinds.size) { HashMap<String, Int>() }
    fun tell(kind: Int, message: String?) {
        // What varies between two of a kind is in front of the reason.
        val reason = message?.substringAfterLast('(')?.substringBefore(')') ?: "none"
        refusals[kind].merge(reason, 1, Int::plus)
    }
    val bytes = Mutator(ZIP_TOKENS, late = true)
    repeat(count) { tell(it % kinds.size, kinds[it % kinds.size].run { refusal(bytes(this.bytes)) }) }
    val unpacked = refusals.sumOf { it["none"] ?: 0 }
    val text = Mutator(JSON_TOKENS, values = true)
    val documents = List(kinds.size) { HashMap<String, Int>() }
    repeat(count / 2) { round ->
        val kind = kinds[round % kinds.size]
        val name = if (round / kinds.size % 2 == 0) "archive.json" else "manifest.json"
        val message = kind.refusal(kind.with(name, text(kind.members.getValue(name))))
        documents[round % kinds.size].merge(message?.replace(Regex("[^ ]*/[^ ]*|\\d+"), "N") ?: "none", 1, Int::plus)
    }
    val whole = documents.sumOf { it["none"] ?: 0 }
    val unread = documents.sumOf { said -> said.filterKeys { "is not readable JSON" in it }.values.sum() }
    println("refused ${count - unpacked} of $count and ${count / 2 - whole} of ${count / 2}, $unread of these as no JSON")
    for ((archive, said) in archives.zip(refusals.zip(documents))) {
        println("${archive.nameWithoutExtension}: ${(said.first.keys + said.second.keys).sorted().joinToString(" | ")}")
    }
}

/** Bundles that are opened again and again, with other texts in them. */
private class Opened(val folder: File) {
    val manifest = File(folder, "manifest.json")
    var refused = 0
    var drawn = 0
    private val root = folder.canonicalPath + "/"

    /** What is wrong with the bundle, or null; [use] does something with it. Anything but an [S2PException] in one line is a failure. */
    fun refusal(use: suspend (Pipeline) -> Unit): String? = try {
        runBlocking { Pipeline.open(folder).use { use(it) } }
        null
    } catch (error: S2PException) {
        refused++
        val message = error.message!!
        expect('\n' !in message && "out of memory" !in message) { message }
        message
    }

    /** All programs, none of which may lie outside of the folder. */
    suspend fun load(pipeline: Pipeline) {
        StandIn.loaded.clear()
        pipeline.prewarm()
        val outside = StandIn.loaded.map { File(it.path).canonicalPath }.filterNot { it.startsWith(root) }
        expect(outside.isEmpty()) { "loaded from outside: $outside" }
    }

    /** The beginning of a picture, for which the prompt is read. */
    suspend fun begin(pipeline: Pipeline) {
        pipeline.generate("a blue <CAT> cat, \uD83D\uDE00!").first()
        drawn++
    }
}

/** All memory of the process grows by little: whoever believes a number of a file asks for gigabytes. What each file is allowed, the core's
 *  own tests show. */
private fun whileMemoryStays(work: (warm: () -> Unit) -> Unit) {
    var before = 0L
    work { before = peakOfProcess() }
    val grown = peakOfProcess() - before
    // Java's heap may grow to what it was given, and compiled code and the threads' own memory by a little.
    expect(before > 0 && grown < Runtime.getRuntime().maxMemory() + OWN_GROWTH) { "memory grew by $grown bytes" }
}

private const val OWN_GROWTH = 32L shl 20
private const val WARM_ROUNDS = 500

/**
 * Manifests go the way of an app's: through [Pipeline.open], JNI and the core. First each name of a file is put outside, in each way there
 * is; copies of all files lie at [outside], so that nothing but the place is wrong. Then [count] with edits.
 */
fun fuzzManifests(bundle: File, outside: File, count: Int) {
    val opened = Opened(bundle)
    val original = opened.manifest.readText()
    expect(opened.refusal(opened::load) == null) { "the bundle is refused" }
    val names = bundle.walk().filter { it.isFile && it != opened.manifest }.map { it.relativeTo(bundle).path }.toList()
    java.nio.file.Files.createSymbolicLink(File(bundle, "link").toPath(), outside.absoluteFile.toPath())
    val up = outside.relativeTo(bundle).path
    for (name in names) {
        for (place in listOf("$up/$name", outside.absoluteFile.path + "/$name", "tokenizer/../$up/$name", "link/$name", "$up\\\\$name")) {
            opened.manifest.writeText(original.replace("\"$name\"", "\"$place\""))
            val message = opened.refusal(opened::load)
            expect(message != null && (" its folder; " in message)) { "$place: $message" }
        }
    }
    val mutator = Mutator(JSON_TOKENS, values = true)
    opened.refused = 0
    whileMemoryStays { warm ->
        repeat(count) { round ->
            if (round == WARM_ROUNDS) warm()
            opened.manifest.writeBytes(mutator(original.toByteArray()))
            opened.refusal(opened::load)
        }
    }
    println("refused ${opened.refused} of $count")
}

/** The same of the files of a vocabulary, [count] together, whose entries in the manifest are made right again. What opens draws. */
fun fuzzVocabularies(bundle: File, recorded: File, golden: String, count: Int) {
    Replay(recorded, golden).install()
    val opened = Opened(bundle)
    val original = opened.manifest.readText()
    val mutators = mapOf("tokenizer/vocab.json" to JSON_TOKENS, "tokenizer/merges.txt" to tokens(" ", "\n", "</w>", "a b\n", "\u00ff", "#version", "\u0000"))
    for ((name, tokens) in mutators) {
        val file = File(bundle, name)
        val bytes = file.readBytes()
        val listed = Regex("(?<=\"$name\":\\{)\"sha256\":\"[0-9a-f]{64}\",\"bytes\":\\d+")
        val (before, behind) = listed.split(original)
        val mutator = Mutator(tokens, values = name.endsWith(".json"))
        opened.refused = 0
        opened.drawn = 0
        whileMemoryStays { warm ->
            repeat(count / mutators.size) { round ->
                if (round == WARM_ROUNDS) warm()
                val mutant = mutator(bytes)
                file.writeBytes(mutant)
                val digest = hex(MessageDigest.getInstance("SHA-256").apply { update(mutant) })
                opened.manifest.writeText("$before\"sha256\": \"$digest\", \"bytes\": ${mutant.size}$behind")
                val message = opened.refusal(opened::begin)
                expect(message?.contains("altered") != true && message?.contains("bytes instead") != true) { "the reader was not reached: $message" }
            }
        }
        file.writeBytes(bytes)
        println("$name: refused ${opened.refused} and drew ${opened.drawn} of ${count / mutators.size}")
    }
}
