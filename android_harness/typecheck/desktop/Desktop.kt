@file:OptIn(mobile.s2p.bench.BenchApi::class)

package mobile.s2p

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
    expect(pipeline.staysLoaded) { "no budget, and yet stages are released" }
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
    Pipeline.open(bundle, PipelineOptions(memoryBudget = 1)).use { frugal ->
        expect(!frugal.staysLoaded) { "a budget of one byte" }
        withTimeout(60_000) { repeat(2) { frugal.generate(prompt, seed = seed).toList() } }
    }
    expect(StandIn.loaded.size == before + 6) { "each picture loads its three stages: ${StandIn.loaded.size - before}" }
    val half = maxOf(1, Runtime.getRuntime().availableProcessors() / 2)
    expect(StandIn.loaded.all { it.threads == half }) { "half the processors, not ${StandIn.loaded.last().threads}" }
}

fun main(words: Array<String>) {
    try {
        when (words[0]) {
            "bench" -> bench(File(words[1]), words[2], File(words[3]))
            "failures" -> failures(File(words[1]), words[2], File(words[3]))
            "draw" -> draw(File(words[1]), words[2], words[3].toLong(), words[4], File(words[5]))
            "unpack" -> unpack(File(words[1]), File(words[2]))
            "refuse" -> refuse(File(words[1]))
            "fuzz" -> fuzz(File(words[1]), File(words[2]), words[3].toInt())
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
