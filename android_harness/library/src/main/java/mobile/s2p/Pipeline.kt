package mobile.s2p

import android.graphics.Bitmap
import java.io.Closeable
import java.io.File
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import java.util.concurrent.RejectedExecutionException
import java.util.concurrent.atomic.AtomicBoolean
import kotlin.coroutines.resume
import kotlin.coroutines.resumeWithException
import kotlin.random.Random
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.suspendCancellableCoroutine

/**
 * How a bundle is opened.
 *
 * @property memoryBudget bytes that the loaded programs should not exceed; null: half of what the system can give away when the bundle is
 *   opened, or [UNBOUNDED]. Where all of them are too much, each stage (text encoder, network, decoder) is loaded for its part of a picture
 *   and released, which costs time for every picture.
 * @property threads of the engine; 0: half the processors, which is faster on phones than all of them.
 */
public class PipelineOptions(public val memoryBudget: Long? = null, public val threads: Int = 0) {
    init {
        require(memoryBudget == null || memoryBudget > 0) { "a memory budget is a number of bytes, or null for what the phone has" }
        require(threads >= 0) { "threads are 0, for the engine's choice, or more" }
    }

    public companion object {
        /** A memory budget without a bound: everything stays loaded. */
        public const val UNBOUNDED: Long = Long.MAX_VALUE
    }
}

/**
 * Bytes for programs where an app names none: half of what the kernel can give away without swapping. The other half is room for
 * activations and the engine's own copies, which no size of a file tells. null where the kernel does not tell.
 *
 * Android's ActivityManager.MemoryInfo is counted from the same file, but can be asked only with a context.
 */
internal fun systemBudget(meminfo: File): Long? {
    val lines = runCatching { meminfo.readLines() }.getOrDefault(emptyList())
    val kilobytes = lines.firstNotNullOfOrNull { AVAILABLE.matchEntire(it) }?.groupValues?.get(1)?.toLongOrNull() ?: return null
    return maxOf(1, kilobytes * 512)
}

private val AVAILABLE = Regex("MemAvailable: *([0-9]{1,15}) kB")
private val MEMINFO = File("/proc/meminfo")

/** Width and height of a picture in pixels. */
public data class PictureSize(public val width: Int, public val height: Int) {
    /** `WIDTHxHEIGHT` */
    override fun toString(): String = "${width}x$height"
}

/** What a picture tells while it grows. */
public sealed interface Step {
    /**
     * A call of the network is done.
     *
     * @property call how many are done, from 1.
     * @property calls how many there are in this picture: fewer than in others where it starts from one.
     * @property preview the state after this call, decoded; only where previews were asked for.
     */
    public class Progress internal constructor(
        public val call: Int,
        public val calls: Int,
        public val preview: Bitmap?,
    ) : Step

    /**
     * The last step.
     *
     * @property picture ARGB_8888.
     * @property milliseconds from the prompt to the picture, loading included.
     */
    public class Finished internal constructor(public val picture: Bitmap, public val milliseconds: Double) : Step
}

/**
 * Draws pictures from prompts with the programs of a bundle, on the phone.
 *
 * ```
 * val pipeline = Pipeline.open(File(folder, "app.s2pmobile"))
 * pipeline.generate("a red apple", seed = 7).collect { step ->
 *     when (step) {
 *         is Step.Progress -> bar.progress = 100 * step.call / step.calls
 *         is Step.Finished -> image.setImageBitmap(step.picture)
 *     }
 * }
 * pipeline.close()
 * ```
 *
 * All functions may be called from any thread; pictures of one pipeline are drawn one after the other, on a thread of its own. Pictures
 * of the same bundle, prompt and seed are the same on all devices but for rounding.
 *
 * @property name of the bundle.
 * @property sizes of pictures that the bundle draws: several where it was made with `convert --size`. The first is drawn unless another is
 *   asked for.
 * @property width of pictures of the first size, pixels.
 * @property height of pictures of the first size, pixels.
 * @property calls of the network for a picture from noise.
 * @property guided whether a negative prompt has an effect.
 * @property takesPictures whether a picture may start from one: the bundle was made with `convert --image-to-image`.
 * @property staysLoaded false where the budget makes every picture load and release its stages.
 */
public class Pipeline private constructor(private val worker: ExecutorService, private val handle: Long) : Closeable {
    private val numbers = Native.numbers(handle)
    private val closed = AtomicBoolean(false)

    public val name: String = Native.name(handle).decodeToString()
    public val calls: Int = numbers[0].toInt()
    public val guided: Boolean = numbers[1] != 0L
    public val staysLoaded: Boolean = numbers[2] != 0L
    public val takesPictures: Boolean = numbers[3] != 0L
    public val sizes: List<PictureSize> = numbers.drop(4).chunked(2) { (width, height) -> PictureSize(width.toInt(), height.toInt()) }
    public val width: Int = sizes.first().width
    public val height: Int = sizes.first().height

    /**
     * Loads what stays loaded, so that the first picture does not wait for it. Without it, everything is loaded when it is first needed.
     *
     * @param size of that picture, one of [sizes]; null: the first.
     * @throws S2PException the engine refuses a program, or the bundle does not draw this size.
     */
    public suspend fun prewarm(size: PictureSize? = null): Unit = worker.await {
        val (width, height) = size ?: sizes.first()
        Native.prewarm(handle, width, height)
    }

    /** Releases all programs, for example when the app goes to the background; the next picture loads them again. */
    public suspend fun unload(): Unit = worker.await { Native.unload(handle) }

    /**
     * A picture, drawn anew for everyone who collects it: [calls] times [Step.Progress], then [Step.Finished]. From a picture, fewer
     * calls are made.
     *
     * A collector that is cancelled ends the picture after the call that is under way, and nothing more is emitted.
     *
     * @param prompt what is to be seen; what is longer than the text encoder's limit is cut off.
     * @param negativePrompt what is not to be seen; only where the bundle is [guided].
     * @param seed of the noise: the same seed gives the same picture. Without one, every call of this function draws another.
     * @param previewEvery calls between two previews, 0 for none. A preview costs a run of the decoder and keeps it loaded.
     * @param image what to start from in place of noise; only where the bundle [takesPictures]. It is scaled until it covers the size
     *   that is drawn, and what stands over is cut off on both sides alike; transparent parts become white. Not to be recycled meanwhile.
     * @param strength how much of the image is drawn anew, above 0, at most 1: the share of the steps that is made. No effect without one.
     * @param size one of [sizes]; null: the first. The network, decoder and encoder of one size are loaded at a time: a picture of another size
     *   than the one before loads them anew.
     * @throws S2PException a program fails, a negative prompt would have no effect, the bundle starts from no picture or does not draw this
     *   size, or the strength is out of range.
     * @throws IllegalStateException the pipeline is closed.
     */
    public fun generate(
        prompt: String,
        negativePrompt: String? = null,
        seed: Long = Random.nextLong(),
        previewEvery: Int = 0,
        image: Bitmap? = null,
        strength: Double = 0.8,
        size: PictureSize? = null,
    ): Flow<Step> {
        require(previewEvery >= 0) { "previews come every so many calls, or never for 0" }
        val drawn = size ?: sizes.first()
        return callbackFlow<Step> {
            val wanted = AtomicBoolean(true)
            worker.run {
                if (wanted.get()) {
                    runCatching {
                        val begin = System.nanoTime()
                        val listener = StepListener { call, calls, preview ->
                            trySend(Step.Progress(call + 1, calls, preview?.let { drawn.bitmap(it) }))
                            wanted.get()
                        }
                        // Of any other size the core says that the bundle does not draw it.
                        val start = image?.takeIf { drawn in sizes }?.let { fitted(it, drawn.width, drawn.height) }
                        val pixels = Native.draw(
                            handle, prompt.encodeToByteArray(), negativePrompt?.encodeToByteArray(), seed, drawn.width, drawn.height, previewEvery,
                            start, strength, listener,
                        )
                        if (pixels != null) trySend(Step.Finished(drawn.bitmap(pixels), (System.nanoTime() - begin) / 1e6))
                    }.fold({ close() }, { close(it) })
                }
            }
            awaitClose { wanted.set(false) }
        }.buffer(Channel.UNLIMITED)
    }

    /** Releases everything, after the picture that is under way. Calling it again does nothing. */
    override fun close() {
        if (!closed.compareAndSet(false, true)) return
        worker.execute { Native.close(handle) }
        worker.shutdown()
    }

    public companion object {
        /**
         * Opens a bundle for ExecuTorch. Every file is compared with its SHA-256, which takes a second for each gigabyte or two.
         *
         * Of a bundle for Snapdragon's NPU the programs of this phone's chip are taken; files of other chips need not be there.
         *
         * @param bundle its folder, for example what [Bundles.fetch] made.
         * @throws S2PException no bundle, one that was altered, one for another engine or chip, or this app lacks what the NPU needs.
         */
        public suspend fun open(bundle: File, options: PipelineOptions = PipelineOptions()): Pipeline =
            open(bundle, options, ExecuTorchEngine(threadsOr(options.threads)))

        internal suspend fun open(
            bundle: File, options: PipelineOptions, engine: Engine, chip: String? = deviceChip(), meminfo: File = MEMINFO,
        ): Pipeline {
            val worker = Executors.newSingleThreadExecutor { work -> Thread(work, "s2p-pipeline") }
            try {
                return worker.await {
                    val folder = bundle.path.encodeToByteArray()
                    val budget = options.memoryBudget ?: systemBudget(meminfo) ?: PipelineOptions.UNBOUNDED
                    Pipeline(worker, Native.open(folder, chip?.encodeToByteArray(), engine, budget))
                }
            } catch (error: Throwable) {
                worker.shutdown()
                throw error
            }
        }
    }
}

private fun PictureSize.bitmap(pixels: IntArray): Bitmap = Bitmap.createBitmap(pixels, width, height, Bitmap.Config.ARGB_8888)

private fun ExecutorService.run(work: () -> Unit) {
    try {
        execute(work)
    } catch (_: RejectedExecutionException) {
        throw IllegalStateException("the pipeline is closed; open the bundle again")
    }
}

/** The result of work on this thread. Cancelling the caller does not end the work. */
private suspend fun <T> ExecutorService.await(work: () -> T): T = suspendCancellableCoroutine { caller ->
    run { runCatching(work).fold({ caller.resume(it) }, { caller.resumeWithException(it) }) }
}
