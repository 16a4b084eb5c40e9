package mobile.s2p.example

import android.app.Activity
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.os.Build
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.TextView
import java.io.File
import java.io.IOException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.cancel
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import mobile.s2p.Bundles
import mobile.s2p.FetchStep
import mobile.s2p.Pipeline
import mobile.s2p.S2PException
import mobile.s2p.Step

/** Draws what is typed, from noise or from a picture that is picked. */
class MainActivity : Activity() {
    private val scope = MainScope()
    private val folder by lazy { File(getExternalFilesDir(null), "bundles") }

    private lateinit var prompt: EditText
    private lateinit var draw: Button
    private lateinit var pick: Button
    private lateinit var status: TextView
    private lateinit var picture: ImageView

    private var pipeline: Pipeline? = null
    private var drawing: Job? = null
    private var start: Bitmap? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        prompt = EditText(this).apply { hint = getString(R.string.prompt) }
        draw = Button(this).apply {
            setText(R.string.draw)
            isEnabled = false
            setOnClickListener { drawOrStop() }
        }
        pick = Button(this).apply {
            setText(R.string.pick)
            isEnabled = false
            setOnClickListener { pickOrForget() }
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
        listOf(prompt, draw, pick, status).forEach { addView(it) }
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
        // Bundles of more than half of the free memory are loaded stage by stage.
        val opened = Pipeline.open(bundle)
        pipeline = opened
        status.text = getString(R.string.ready, opened.name)
        draw.isEnabled = true
        // Photos are read the right way up from Android 9 on.
        pick.isEnabled = opened.takesPictures && Build.VERSION.SDK_INT >= Build.VERSION_CODES.P
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

    private fun pickOrForget() {
        if (start == null) {
            startActivityForResult(Intent(Intent.ACTION_GET_CONTENT).setType("image/*"), PICK)
            return
        }
        start = null
        pick.setText(R.string.pick)
    }

    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        val opened = pipeline
        val uri = data?.data
        if (request != PICK || result != RESULT_OK || opened == null || uri == null || Build.VERSION.SDK_INT < Build.VERSION_CODES.P) return
        scope.launch {
            try {
                start = withContext(Dispatchers.IO) {
                    ImageDecoder.decodeBitmap(ImageDecoder.createSource(contentResolver, uri)) { decoder, info, _ ->
                        // A photo has many more pixels than what is drawn.
                        decoder.setTargetSampleSize(maxOf(1, minOf(info.size.width / opened.width, info.size.height / opened.height)))
                    }
                }
                picture.setImageBitmap(start)
                pick.setText(R.string.forget)
            } catch (error: IOException) {
                status.setText(R.string.no_picture)
            }
        }
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
        opened.generate(prompt.text.toString(), previewEvery = 10, image = start).collect { step ->
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

    private companion object {
        const val PICK = 1
    }
}
