package mobile.s2p.example

import android.app.Activity
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.TextView
import java.io.File
import kotlin.random.Random
import kotlinx.coroutines.Job
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.cancel
import kotlinx.coroutines.launch
import mobile.s2p.Bundles
import mobile.s2p.FetchStep
import mobile.s2p.Pipeline
import mobile.s2p.PipelineOptions
import mobile.s2p.S2PException
import mobile.s2p.Step

/** Draws what is typed. */
class MainActivity : Activity() {
    private val scope = MainScope()
    private val folder by lazy { File(getExternalFilesDir(null), "bundles") }

    private lateinit var prompt: EditText
    private lateinit var draw: Button
    private lateinit var status: TextView
    private lateinit var picture: ImageView

    private var pipeline: Pipeline? = null
    private var drawing: Job? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        prompt = EditText(this).apply { hint = getString(R.string.prompt) }
        draw = Button(this).apply {
            setText(R.string.draw)
            isEnabled = false
            setOnClickListener { drawOrStop() }
        }
        status = TextView(this)
        picture = ImageView(this)
        setContentView(layout())
        scope.launch { told { open() } }
    }

    override fun onDestroy() {
        super.onDestroy()
        scope.cancel()
        pipeline?.close()
    }

    private fun layout(): View = LinearLayout(this).apply {
        orientation = LinearLayout.VERTICAL
        fitsSystemWindows = true
        listOf(prompt, draw, status).forEach { addView(it) }
        addView(picture, LinearLayout.LayoutParams(LinearLayout.LayoutParams.MATCH_PARENT, 0, 1f))
    }

    /** Errors of the library are one line that says what to do. */
    private suspend fun told(work: suspend () -> Unit) {
        try {
            work()
        } catch (error: S2PException) {
            status.text = error.message
        }
    }

    private suspend fun open() {
        folder.mkdirs()
        val bundle = find() ?: return
        // Half a gigabyte for programs: larger bundles are loaded stage by stage.
        val opened = Pipeline.open(bundle, PipelineOptions(memoryBudget = 512L shl 20))
        pipeline = opened
        status.text = getString(R.string.ready, opened.name)
        draw.isEnabled = true
        opened.prewarm()
    }

    private suspend fun find(): File? {
        val url = getString(R.string.bundle_url)
        var found = folder.listFiles()?.firstOrNull { it.name.endsWith(".s2pmobile") }
        if (found == null && url.isNotEmpty()) {
            Bundles.fetch(url, getString(R.string.bundle_sha256), folder).collect { step ->
                when (step) {
                    is FetchStep.Downloading -> status.text = getString(R.string.fetching, step.bytes / 1_000_000)
                    is FetchStep.Unpacking -> status.setText(R.string.unpacking)
                    is FetchStep.Done -> found = step.folder
                }
            }
        }
        if (found == null) status.text = getString(R.string.no_bundle, folder.path)
        return found
    }

    private fun drawOrStop() {
        val running = drawing
        if (running != null && running.isActive) {
            running.cancel()
            return
        }
        val opened = pipeline ?: return
        draw.setText(R.string.stop)
        drawing = scope.launch {
            try {
                told { show(opened) }
            } finally {
                draw.setText(R.string.draw)
            }
        }
    }

    private suspend fun show(opened: Pipeline) {
        opened.generate(prompt.text.toString(), seed = Random.nextLong(), previewEvery = 10).collect { step ->
            when (step) {
                is Step.Progress -> {
                    status.text = getString(R.string.call, step.call, step.calls)
                    step.preview?.let { picture.setImageBitmap(it) }
                }
                is Step.Finished -> {
                    status.text = getString(R.string.finished, step.milliseconds / 1000)
                    picture.setImageBitmap(step.picture)
                }
            }
        }
    }
}
