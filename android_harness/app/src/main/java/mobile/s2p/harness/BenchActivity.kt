package mobile.s2p.harness

import android.app.Activity
import android.os.Bundle
import android.view.WindowManager
import android.widget.TextView
import java.io.File
import kotlin.concurrent.thread
import mobile.s2p.bench.Benchmark

/**
 * Measures as `am start` says, see [RunOrder], without a screen that would take time from it, and ends. The folder of the run gets
 * progress.txt meanwhile, a line a step, and at the end report.json or error.txt.
 */
class BenchActivity : Activity() {
    private val sensors by lazy { AndroidSensors(applicationContext) }

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        setContentView(TextView(this).apply { setText(R.string.measuring) })
        // A launch that is under way goes on; a driver that wants another one stops the app first.
        if (state == null) thread(name = "bench") { measure() }
    }

    override fun onResume() {
        super.onResume()
        sensors.activityInFront(true)
    }

    override fun onPause() {
        super.onPause()
        sensors.activityInFront(false)
    }

    private fun measure() {
        val runs = File(getExternalFilesDir(null), "runs")
        val folder = runCatching { RunOrder.folder(intent, runs) }.getOrDefault(File(runs, "run"))
        folder.mkdirs()
        runCatching { run(RunOrder.read(intent, runs)) }.onFailure { error ->
            val line = (error.message ?: error.toString()).lineSequence().first()
            write(File(folder, "error.txt"), "error: $line\n")
        }
        finishAndRemoveTask()
    }

    private fun run(order: RunOrder) {
        val progress = File(order.folder, "progress.txt")
        val tell = mobile.s2p.bench.BenchListener { step, index, total, milliseconds ->
            progress.appendText("${step.name.lowercase()} $index $total $milliseconds\n")
        }
        val out = File(order.folder, if (order.memoryOnly) "memory.json" else "report.json")
        if (order.memoryOnly) {
            Benchmark.memory(order.bundle, out, order.settings, sensors, tell)
        } else {
            Benchmark.measure(order.bundle, out, order.settings, sensors, tell)
        }
    }

    /** Whole or not at all: the driver looks for the file all the time. */
    private fun write(file: File, text: String) {
        val scratch = File(file.path + ".partial")
        scratch.writeText(text)
        scratch.renameTo(file)
    }
}
