package mobile.s2p.harness

import android.content.Intent
import java.io.File
import mobile.s2p.bench.BenchSettings

/**
 * What `am start` asked for, as texts (`--es`): `bundle` and `out` (a name for the run's folder, of letters, digits and dashes), and
 * `pass`, `runs`, `warmup`, `cooldown`, `minimum`, `cool`, `threads` and `release-chunks` where they differ from the usual.
 *
 * @property folder of this run, with report.json, pictures, progress.txt, memory.json and error.txt.
 */
class RunOrder private constructor(val bundle: File, val folder: File, val memoryOnly: Boolean, val settings: BenchSettings) {
    companion object {
        private val KNOWN = setOf(
            "bundle", "out", "pass", "runs", "warmup", "cooldown", "minimum", "cool", "threads", "release-chunks",
        )

        /** The folder that an intent names, also where the rest of it is wrong. */
        fun folder(intent: Intent, runs: File): File {
            val name = intent.getStringExtra("out") ?: "run"
            require(Regex("[A-Za-z0-9-]{1,64}").matches(name)) { "out '$name' is no name of letters, digits and dashes; give another" }
            return File(runs, name)
        }

        /** @throws IllegalArgumentException a word is missing, unknown or wrong, in one line. */
        fun read(intent: Intent, runs: File): RunOrder {
            val given = intent.extras?.keySet().orEmpty()
            val unknown = given - KNOWN
            require(unknown.isEmpty()) { "unknown word ${unknown.first()}; there are ${KNOWN.joinToString()}" }
            val bundle = requireNotNull(intent.getStringExtra("bundle")) { "no bundle; add --es bundle PATH" }
            val pass = intent.getStringExtra("pass") ?: "times"
            require(pass == "times" || pass == "memory") { "pass '$pass' is neither times nor memory; give one of them" }
            fun number(name: String, usual: Double, least: Double): Double {
                val text = intent.getStringExtra(name) ?: return usual
                val value = text.toDoubleOrNull()
                require(value != null && value.isFinite() && value >= least) { "$name '$text' is no number of at least $least; give another" }
                return value
            }
            val usual = BenchSettings()
            val settings = BenchSettings(
                runs = number("runs", usual.runs.toDouble(), 1.0).toInt(),
                warmup = number("warmup", usual.warmup.toDouble(), 0.0).toInt(),
                cooldown = number("cooldown", usual.cooldown, 0.0),
                minimum = number("minimum", usual.minimum, 0.0),
                cool = number("cool", usual.cool, 0.0),
                threads = number("threads", 0.0, 0.0).toInt(),
                releaseChunks = number("release-chunks", 0.0, 0.0) > 0,
                memoryApart = true,
            )
            return RunOrder(File(bundle), folder(intent, runs), pass == "memory", settings)
        }
    }
}
