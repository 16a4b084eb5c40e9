package mobile.s2p

import mobile.s2p.bench.BenchApi
import mobile.s2p.bench.Sensors

/**
 * The C++ core. Texts are UTF-8, because JNI's own strings are not. What fails is an [S2PException].
 *
 * A handle is the address of an open pipeline: one thread at a time, and not after [close].
 */
@OptIn(BenchApi::class)
internal object Native {
    init {
        System.loadLibrary("s2p_jni")
    }

    /** @param chip of this phone; null: it does not tell */
    external fun open(folder: ByteArray, chip: ByteArray?, engine: Engine, budget: Long): Long

    external fun close(handle: Long)

    external fun name(handle: Long): ByteArray

    /**
     * Calls of a picture, 1 with guidance, 1 when all stages stay loaded, 1 when pictures may start from one, then width and height of each
     * size.
     */
    external fun numbers(handle: Long): LongArray

    external fun prewarm(handle: Long, width: Int, height: Int)

    external fun unload(handle: Long)

    /**
     * ARGB pixels, or null when the listener ended the picture.
     *
     * @param image RGB bytes of this width and height to start from; null: noise.
     */
    external fun draw(
        handle: Long, prompt: ByteArray, negative: ByteArray?, seed: Long, width: Int, height: Int, previewEvery: Int, image: ByteArray?,
        strength: Double, listener: StepListener,
    ): IntArray?

    external fun bench(
        bundle: ByteArray, chip: ByteArray?, report: ByteArray, warmup: Int, runs: Int, cooldown: Double, minimum: Double, cool: Double,
        threads: Int, releaseChunks: Boolean, memoryApart: Boolean, engine: Engine, sensors: Sensors, listener: NativeBenchListener,
    )

    external fun memory(
        bundle: ByteArray, chip: ByteArray?, out: ByteArray, releaseChunks: Boolean, engine: Engine, sensors: Sensors,
        listener: NativeBenchListener,
    )
}

/** Told of every call that is made, with a preview where there is one; false ends the picture. */
internal fun interface StepListener {
    fun onStep(call: Int, calls: Int, preview: IntArray?): Boolean
}

/** Told of a step of the benchmark; kinds are the places of [mobile.s2p.bench.BenchStep]. */
internal fun interface NativeBenchListener {
    fun onEvent(kind: Int, index: Long, total: Long, milliseconds: Double)
}
