@file:OptIn(mobile.s2p.bench.BenchApi::class)

package mobile.s2p

import android.system.Os
import java.io.File
import kotlin.system.exitProcess
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import mobile.s2p.bench.BenchSettings
import mobile.s2p.bench.BenchStep
import mobile.s2p.bench.Benchmark
import mobile.s2p.bench.Sensors
import org.pytorch.executorch.StandIn

/** Sensors of a phone that lies still, but for what is asked for. */
private class StillPhone(private val current: Double = -412_000.0, private val away: Boolean = false) : Sensors {
    override fun thermalStatus() = 0
    override fun thermalHeadroom() = 0.25
    override fun batteryCurrent() = current
    override fun batteryMillivolts() = 4000.0
    override fun batteryLevel() = 0.5
    override fun unplugged() = 1
    override fun lowPowerModeOff() = 1
    override fun foreground() = if (away) 0 else 1
    override fun unlocked() = if (away) throw IllegalStateException("no such service") else 1
}

private fun expect(holds: Boolean, what: () -> String) {
    if (!holds) throw AssertionError(what())
}

private inline fun <reified T : Throwable> thrown(work: () -> Unit): T {
    try {
        work()
    } catch (error: Throwable) {
        return error as? T ?: throw AssertionError("another error than ${T::class.simpleName}: $error", error)
    }
    throw AssertionError("no ${T::class.simpleName}")
}

/** A whole measurement through the library; the report is for the caller to look at. */
private fun bench(bundle: File, golden: String, out: File) {
    Replay(bundle, golden).install()
    val steps = ArrayList<BenchStep>()
    val settings = BenchSettings(runs = 2, warmup = 1, minimum = 0.0, threads = 3)
    Benchmark.measure(bundle, File(out, "report.json"), settings, StillPhone()) { step, _, _, _ -> steps += step }
    expect(steps.containsAll(listOf(BenchStep.LOADED, BenchStep.WARMUP, BenchStep.IMAGE, BenchStep.MEMORY_PASS))) { "$steps" }
    expect(StandIn.loaded.all { it.threads == 3 && it.mode == 1 }) { "threads or mode do not reach Module.load" }
    expect(StandIn.destroyed == StandIn.loaded.size) { "${StandIn.loaded.size} programs loaded, ${StandIn.destroyed} released" }
    Benchmark.memory(bundle, File(out, "memory.json"), settings, StillPhone()) { _, _, _, _ -> }
    // Milliamperes, an app that was left, and a sensor that fails.
    Benchmark.measure(bundle, File(out, "away.json"), settings, StillPhone(-412.0, away = true)) { _, _, _, _ -> }
    Benchmark.measure(bundle, File(out, "apart.json"), BenchSettings(1, 0, minimum = 0.0, memoryApart = true), StillPhone()) { _, _, _, _ -> }
}

/** Exceptions on their way through the core, both ways. */
private fun failures(bundle: File, golden: String, out: File) {
    val settings = BenchSettings(runs = 1, warmup = 0, minimum = 0.0)
    val replay = Replay(bundle, golden)
    replay.install()
    val none = thrown<S2PException> { Benchmark.measure(File("/nowhere/ö.s2pmobile"), File(out, "r.json"), settings, StillPhone()) { _, _, _, _ -> } }
    expect(none.message == "/nowhere/ö.s2pmobile is not a folder; give a bundle made by s2p-mobile convert") { none.message!! }
    val stopped = thrown<IllegalStateException> {
        Benchmark.measure(bundle, File(out, "r.json"), settings, StillPhone()) { _, _, _, _ -> throw IllegalStateException("enough 😀") }
    }
    expect(stopped.message == "enough 😀") { stopped.message!! }
    replay.beforeCall = { throw IllegalArgumentException("no kernel 😀") }
    val refused = thrown<S2PException> { Benchmark.measure(bundle, File(out, "r.json"), settings, StillPhone()) { _, _, _, _ -> } }
    expect("no kernel 😀" in refused.message!!) { refused.message!! }
    thrown<IllegalArgumentException> { PipelineOptions(memoryBudget = 0) }
    runBlocking {
        val missing = thrown<S2PException> { Pipeline.open(File("/nowhere/😀.s2pmobile")) }
        expect("/nowhere/😀.s2pmobile is not a folder" in missing.message!!) { missing.message!! }
        Pipeline.open(bundle).use { pipeline ->
            val failed = thrown<S2PException> { pipeline.generate("x").toList() }
            expect("no kernel 😀" in failed.message!!) { failed.message!! }
            if (!pipeline.guided) {
                val useless = thrown<S2PException> { pipeline.generate("x", negativePrompt = "y").toList() }
                expect("no effect" in useless.message!!) { useless.message!! }
            }
            pipeline.close()
            pipeline.close()
            thrown<IllegalStateException> { pipeline.generate("x").toList() }
            thrown<IllegalStateException> { pipeline.prewarm() }
        }
    }
}

/** Pictures as an app draws them: steps, previews, budget, cancellation. The picture's pixels are written for the caller. */
private fun draw(bundle: File, golden: String, seed: Long, prompt: String, out: File): Unit = runBlocking {
    val replay = Replay(bundle, golden)
    replay.install()
    val pipeline = Pipeline.open(bundle)
    expect(pipeline.staysLoaded) { "this machine has memory, and yet stages are released" }
    pipeline.prewarm()
    val warm = StandIn.loaded.size
    val steps = pipeline.generate(prompt, seed = seed, previewEvery = 2).toList()
    expect(StandIn.loaded.size == warm) { "a picture after prewarm loads again" }
    expect(replay.steps == (0L until pipeline.calls).toList()) { "${replay.steps}" }
    val progress = steps.filterIsInstance<Step.Progress>()
    expect(progress.map { it.call } == (1..pipeline.calls).toList()) { "${progress.map { it.call }}" }
    expect(progress.filter { it.preview != null }.map { it.call } == (2 until pipeline.calls step 2).toList()) { "previews" }
    val picture = (steps.last() as Step.Finished).picture
    expect(picture.width == pipeline.width && picture.height == pipeline.height) { "size" }
    File(out, "pixels.txt").writeText(
        (0 until picture.height).joinToString("\n") { y -> (0 until picture.width).joinToString(" ") { x -> "%08x".format(picture.getPixel(x, y)) } },
    )
    // The collector has enough after two calls: no more is drawn than the call that is under way.
    replay.steps.clear()
    replay.beforeCall = { Thread.sleep(100) }
    pipeline.generate(prompt, seed = seed).first { it is Step.Progress && it.call == 2 }
    replay.beforeCall = {}
    pipeline.unload()
    expect(replay.steps.size in 2..4) { "${replay.steps.size} calls after it was cancelled at two" }
    pipeline.close()

    val before = StandIn.loaded.size
    val meminfo = File(out, "meminfo")
    for ((available, stays) in mapOf("MemAvailable:          0 kB" to false, "MemAvailable:    8000000 kB" to true, "MemFree: 1 kB" to true)) {
        meminfo.writeText("MemTotal:       8000000 kB\nMemFree:              0 kB\n$available\n")
        Pipeline.open(bundle, PipelineOptions(), ExecuTorchEngine(1), meminfo = meminfo).use {
            expect(it.staysLoaded == stays) { "'$available': stays loaded: ${it.staysLoaded}" }
        }
    }
    meminfo.writeText("MemAvailable:    4000000 kB\n")
    expect(systemBudget(meminfo) == 2_048_000_000L) { "half of what there is, not ${systemBudget(meminfo)}" }
    meminfo.writeText("MemAvailable:    0 kB\n")
    Pipeline.open(bundle, PipelineOptions(PipelineOptions.UNBOUNDED), ExecuTorchEngine(1), meminfo = meminfo).use {
        expect(it.staysLoaded) { "without a bound, and yet stages are released" }
    }

    Pipeline.open(bundle, PipelineOptions(memoryBudget = 1)).use { frugal ->
        expect(!frugal.staysLoaded) { "a budget of one byte" }
        withTimeout(60_000) { repeat(2) { frugal.generate(prompt, seed = seed).toList() } }
    }
    expect(StandIn.loaded.size == before + 6) { "each picture loads its three stages: ${StandIn.loaded.size - before}" }
    val half = maxOf(1, Runtime.getRuntime().availableProcessors() / 2)
    expect(StandIn.loaded.all { it.threads == half }) { "half the processors, not ${StandIn.loaded.last().threads}" }
}

/** Qualcomm's libraries in a folder, as an app has them that was installed. */
private fun librariesOf(folder: File, vararg names: String): Npu {
    folder.mkdirs()
    for (name in names) File(folder, "lib$name.so").writeText("")
    return Npu { name -> File(folder, "lib$name.so").takeIf(File::exists)?.path }
}

/** A bundle for the NPU of the phone that this machine's properties describe, in apps that lack parts and in one that has all. */
private fun npu(bundle: File, golden: String, seed: Long, prompt: String, out: File): Unit = runBlocking {
    val graph = "qnn_graph_7"
    Replay(bundle, golden, graph).install()
    val lines = listOf(
        "executorch-android-qnn:", "com.qualcomm.qti:qnn-runtime:", "jniLibs.useLegacyPackaging = true", "-Ps2p.npu=true",
    )
    suspend fun lacks(npu: Npu, part: String) {
        val error = thrown<S2PException> { Pipeline.open(bundle, PipelineOptions(), ExecuTorchEngine(1, npu)) }.message!!
        expect(error.startsWith("this app lacks $part, which the NPU needs; ") && lines.all { it in error }) { error }
        expect('\n' !in error && StandIn.loaded.isEmpty()) { "more than a line, or something was loaded" }
    }
    val plain = thrown<S2PException> { Pipeline.open(bundle) }.message!!
    expect(plain.startsWith("this app lacks libQnnHtp.so and libQnnSystem.so of Qualcomm,")) { plain }
    lacks(librariesOf(File(out, "half"), "QnnHtp"), "libQnnSystem.so of Qualcomm")
    lacks(librariesOf(File(out, "stub"), "QnnHtp", "QnnSystem", "QnnHtpV75Stub"), "libQnnHtpV..Skel.so of Qualcomm")
    lacks(Npu { "${File(out, "base.apk")}!/lib/arm64-v8a/lib$it.so" }, "Qualcomm's libraries as files")
    expect("ADSP_LIBRARY_PATH" !in Os.environment) { "set by an app that lacks libraries" }

    val folder = File(out, "lib/arm64")
    val whole = librariesOf(folder, "QnnHtp", "QnnSystem", "QnnHtpV75Stub", "QnnHtpV75Skel")
    lacks(whole, "ExecuTorch's QNN delegate")
    Os.environment.clear()
    // Asked of the runtime before anything is loaded, and of a program right after it is: the place is known at both times.
    fun <T> whenSet(value: T): T = value.also { expect(Os.environment["ADSP_LIBRARY_PATH"] == folder.absolutePath) { "${Os.environment}" } }
    StandIn.backends = { whenSet(listOf("XnnpackBackend", "QnnBackend")) }
    StandIn.methods = { whenSet(listOf(graph)) }
    val engine = ExecuTorchEngine(1, whole)
    Pipeline.open(bundle, PipelineOptions(), engine).use { pipeline ->
        val steps = pipeline.generate(prompt, seed = seed).toList()
        expect(steps.last() is Step.Finished) { "$steps" }
    }
    val programs = StandIn.loaded.map { File(it.path).relativeTo(bundle).path }
    expect(programs == listOf("text_encoder", "unet", "vae_decoder").map { "SM8650/$it.pte" }) { "$programs" }
    expect(StandIn.prepared.toSet() == setOf(graph)) { "${StandIn.prepared}" }
    Benchmark.measure(bundle, File(out, "report.json"), BenchSettings(1, 0, minimum = 0.0), StillPhone(), { _, _, _, _ -> }, engine)
    Benchmark.memory(bundle, File(out, "memory.json"), BenchSettings(1, 0, minimum = 0.0), StillPhone(), { _, _, _, _ -> }, engine)
}

/** Opens a bundle in an app that has all that the NPU needs; what is wrong ends with status 2 and a line. */
private fun npuOpens(bundle: File, out: File): Unit = runBlocking {
    StandIn.backends = { listOf("QnnBackend") }
    val engine = ExecuTorchEngine(1, librariesOf(out, "QnnHtp", "QnnSystem", "QnnHtpV75Skel"))
    Pipeline.open(bundle, PipelineOptions(), engine).close()
}

/** Of a program with several methods, one for each picture size, the first size's is taken. */
private fun methods(bundle: File, golden: String): Unit = runBlocking {
    Replay(bundle, golden).install()
    StandIn.methods = { listOf("size_32x48", "forward") }
    Pipeline.open(bundle).use { it.prewarm() }
    expect(StandIn.prepared.toSet() == setOf("forward")) { "${StandIn.prepared}" }
    StandIn.methods = { listOf("size_32x48", "size_48x32") }
    Pipeline.open(bundle).use { pipeline ->
        val refused = thrown<S2PException> { pipeline.prewarm() }
        expect("Failed to load method: forward" in refused.message!!) { refused.message!! }
    }
}

fun main(words: Array<String>) {
    try {
        when (words[0]) {
            "bench" -> bench(File(words[1]), words[2], File(words[3]))
            "failures" -> failures(File(words[1]), words[2], File(words[3]))
            "draw" -> draw(File(words[1]), words[2], words[3].toLong(), words[4], File(words[5]))
            "picture" -> fromPicture(File(words[1]), File(words[2]), words[3], words[4].toLong(), words[5])
            "npu" -> npu(File(words[1]), words[2], words[3].toLong(), words[4], File(words[5]))
            "npu-opens" -> npuOpens(File(words[1]), File(words[2]))
            "sizes" -> sizes(File(words[1]), words[2], words[3])
            "methods" -> methods(File(words[1]), words[2])
            "unpack" -> unpack(File(words[1]), File(words[2]))
            "refuse" -> refuse(File(words[1]))
            "fuzz-archives" -> fuzzArchives(File(words[1]), words[2].toInt(), words.drop(3).map(::File))
            "fuzz-manifests" -> fuzzManifests(File(words[1]), File(words[2]), words[3].toInt())
            "fuzz-vocabularies" -> fuzzVocabularies(File(words[1]), File(words[2]), words[3], words[4].toInt())
            "jni-mistake" -> PlantedJni.run(File(words[1]))
            "fetch" -> fetch(File(words[1]), words[2], File(words[3]))
            "orders" -> orders()
            else -> error("unknown test ${words[0]}")
        }
    } catch (error: Throwable) {
        if (error is S2PException) System.err.println("error: ${error.message}") else error.printStackTrace()
        exitProcess(if (error is S2PException) 2 else 1)
    }
    println("passed")
    exitProcess(0)
}
