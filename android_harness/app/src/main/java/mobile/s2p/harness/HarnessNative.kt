package mobile.s2p.harness

import java.nio.ByteBuffer

/** An engine that loads programs; called from the core. */
interface Engine {
    fun load(path: String): EngineProgram
}

/** A loaded program; called from the core, from one thread at a time. */
interface EngineProgram {
    /**
     * Runs once and returns all outputs, each in C order.
     *
     * @param inputs direct buffers, valid only during this call
     * @param dtypes 0 float16, 1 float32, 2 int32, 3 int64
     * @param shapes one shape per input
     */
    fun run(inputs: Array<ByteBuffer>, dtypes: IntArray, shapes: Array<LongArray>): Array<FloatArray>

    fun close()
}

/** What only Android's services know; called from a thread of the core. NaN or -1: no reading. */
interface Sensors {
    fun thermalStatus(): Int
    fun thermalHeadroom(): Double
    fun milliwatts(): Double
    fun batteryLevel(): Double
    fun unplugged(): Int
    fun lowPowerModeOff(): Int
}

/** Told of every step on the thread that called [HarnessNative.bench]; kinds are the names of [Step] in order. */
fun interface BenchListener {
    fun onEvent(kind: Int, index: Long, total: Long, milliseconds: Double)
}

/** The order of s2p::BenchEvent::Kind. */
enum class Step { LOADED, WARMUP, IMAGE, CALL, FIDELITY, MEMORY_PASS }

/** The C++ core: reads the bundle, runs the protocol, writes the report. */
object HarnessNative {
    init {
        System.loadLibrary("s2p_jni")
    }

    /**
     * Runs the whole protocol on the calling thread and writes the report.
     *
     * @param threads of the engine, 0 when it chooses
     * @throws RuntimeException with a one-line message that says what to do
     */
    external fun bench(
        bundlePath: String,
        reportPath: String,
        warmup: Int,
        runs: Int,
        cooldownSeconds: Double,
        threads: Int,
        engine: Engine,
        sensors: Sensors,
        listener: BenchListener,
    )
}
