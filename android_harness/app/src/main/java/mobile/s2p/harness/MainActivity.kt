package mobile.s2p.harness

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.os.Handler
import android.os.Looper
import android.text.InputType
import android.view.View
import android.view.WindowManager
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.Spinner
import android.widget.TextView
import androidx.core.content.FileProvider
import java.io.File
import kotlin.concurrent.thread
import mobile.s2p.bench.BenchSettings
import mobile.s2p.bench.BenchStep
import mobile.s2p.bench.Benchmark
import org.json.JSONObject

/**
 * The one screen: choose a bundle, measure, look at the curves, share the report. While it measures, a line of text changes with every
 * picture; curves are drawn afterwards, because drawing takes time from what is measured.
 */
class MainActivity : Activity() {
    private val main = Handler(Looper.getMainLooper())
    private val sensors by lazy { AndroidSensors(applicationContext) }
    private val bundleFolder by lazy { File(getExternalFilesDir(null), "bundles") }
    private val report by lazy { File(filesDir, "reports/report.json") }

    private lateinit var bundles: Spinner
    private lateinit var runs: EditText
    private lateinit var start: Button
    private lateinit var share: Button
    private lateinit var status: TextView
    private lateinit var latency: PlotView
    private lateinit var memory: PlotView
    private lateinit var headroom: PlotView

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        bundleFolder.mkdirs()
        report.parentFile?.mkdirs()
        bundles = Spinner(this)
        runs = EditText(this).apply {
            hint = getString(R.string.runs)
            inputType = InputType.TYPE_CLASS_NUMBER
            setText("5")
        }
        start = Button(this).apply {
            setText(R.string.start)
            setOnClickListener { measure() }
        }
        share = Button(this).apply {
            setText(R.string.share)
            isEnabled = report.exists()
            setOnClickListener { shareReport() }
        }
        status = TextView(this)
        latency = PlotView(this, getString(R.string.latency))
        memory = PlotView(this, getString(R.string.memory))
        headroom = PlotView(this, getString(R.string.headroom))
        setContentView(layout())
    }

    override fun onResume() {
        super.onResume()
        val names = bundleFolder.list()?.filter { it.endsWith(".s2pmobile") }?.sorted().orEmpty()
        bundles.adapter = ArrayAdapter(this, android.R.layout.simple_spinner_dropdown_item, names)
        if (names.isEmpty()) status.text = getString(R.string.no_bundle, bundleFolder.path)
        sensors.activityInFront(true)
    }

    override fun onPause() {
        super.onPause()
        sensors.activityInFront(false)
    }

    private fun layout(): View = LinearLayout(this).apply {
        orientation = LinearLayout.VERTICAL
        fitsSystemWindows = true
        listOf(bundles, runs, start, status).forEach { addView(it) }
        listOf(latency, memory, headroom).forEach { addView(it, LinearLayout.LayoutParams(LinearLayout.LayoutParams.MATCH_PARENT, 0, 1f)) }
        addView(share)
    }

    private fun measure() {
        val name = bundles.selectedItem as? String ?: return
        val count = runs.text.toString().toIntOrNull() ?: return
        start.isEnabled = false
        listOf(latency, memory, headroom).forEach { it.clear() }
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        thread(name = "bench") {
            val outcome = runCatching {
                Benchmark.measure(File(bundleFolder, name), report, BenchSettings(runs = count), sensors, ::onStep)
            }
            main.post { finished(outcome.exceptionOrNull()) }
        }
    }

    private fun onStep(step: BenchStep, index: Long, total: Long, @Suppress("UNUSED_PARAMETER") milliseconds: Double) {
        if (step == BenchStep.CALL) return
        main.post { status.text = getString(R.string.progress, step.name.lowercase(), index + 1, total) }
    }

    private fun finished(error: Throwable?) {
        window.clearFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        start.isEnabled = true
        share.isEnabled = report.exists()
        status.text = if (error == null) getString(R.string.done, report.name) else getString(R.string.failed, error.message)
        if (error == null) plot(JSONObject(report.readText()))
    }

    private fun plot(written: JSONObject) {
        val images = written.getJSONObject("timings_ms").getJSONArray("image")
        for (i in 0 until images.length()) latency.add(images.getDouble(i))
        val samples = written.getJSONObject("memory").getJSONArray("samples")
        for (i in 0 until samples.length()) memory.add(samples.getJSONArray(i).getDouble(1) / 1e6)
        val heat = written.getJSONArray("thermal")
        for (i in 0 until heat.length()) headroom.add(heat.getJSONObject(i).optDouble("headroom"))
    }

    private fun shareReport() {
        val uri = FileProvider.getUriForFile(this, "mobile.s2p.harness.reports", report)
        val send = Intent(Intent.ACTION_SEND).apply {
            type = "application/json"
            putExtra(Intent.EXTRA_STREAM, uri)
            addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
        }
        startActivity(Intent.createChooser(send, getString(R.string.share)))
    }
}
