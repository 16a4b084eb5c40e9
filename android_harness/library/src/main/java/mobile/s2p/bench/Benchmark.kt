package mobile.s2p.bench

import java.io.File
import mobile.s2p.Engine
import mobile.s2p.ExecuTorchEngine
import mobile.s2p.Native
import mobile.s2p.deviceChip
import mobile.s2p.threadsOr

/** For the measuring app of this project; other apps have no need of it, and it may change. */
@RequiresOptIn("For measuring apps; may change with any version.")
@Retention(AnnotationRetention.BINARY)
public annotation class BenchApi

/** What only Android's services know; called from a thread of the core. NaN or -1: no reading. */
@BenchApi
public interface Sensors {
    /** 0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown. */
    public fun thermalStatus(): Int

    /** 1.0 is the severe threshold. */
    public fun thermalHeadroom(): Double

    /** As the system gives it: microamperes, on some phones milliamperes, of either sign. */
    public fun batteryCurrent(): Double

    public fun batteryMillivolts(): Double

    /** From 0 to 1. */
    public fun batteryLevel(): Double

    /** 1, or 0 while a charger is connected. */
    public fun unplugged(): Int

    /** 1, or 0 while the phone saves power. */
    public fun lowPowerModeOff(): Int

    /** 1 when the app was in front all the time since the last question, else 0. */
    public fun foreground(): Int

    /** 1 when the screen was unlocked all the time since the last question, else 0. */
    public fun unlocked(): Int
}

/** Steps of a run, in the order of the core's BenchEvent::Kind. */
@BenchApi
public enum class BenchStep { LOADED, WARMUP, IMAGE, CALL, FIDELITY, MEMORY_PASS, WAITING }

/** Told of every step, on the measuring thread. What it throws ends the run. */
@BenchApi
public fun interface BenchListener {
    /** @param milliseconds of the load or the picture; of a call 0. */
    public fun onStep(step: BenchStep, index: Long, total: Long, milliseconds: Double)
}

/**
 * How a bundle is measured.
 *
 * @property cooldown seconds of rest before each measured picture.
 * @property minimum seconds below which the report calls itself too short.
 * @property cool seconds to wait at most for a phone that is not throttled; one that does not tell is not waited for. 0: not at all.
 * @property threads of the engine; 0: half the processors.
 * @property memoryApart memory is measured in another launch of the app, not in this one.
 */
@BenchApi
public class BenchSettings(
    public val runs: Int = 5,
    public val warmup: Int = 1,
    public val cooldown: Double = 0.0,
    public val minimum: Double = 60.0,
    public val cool: Double = 600.0,
    public val threads: Int = 0,
    public val releaseChunks: Boolean = false,
    public val memoryApart: Boolean = false,
)

/** Measures a bundle. */
@BenchApi
public object Benchmark {
    /**
     * The whole protocol on the calling thread; writes the report and, beside it, the pictures of the golden runs.
     *
     * @throws mobile.s2p.S2PException a bundle or an engine that does not work, or no place to write.
     */
    public fun measure(bundle: File, report: File, settings: BenchSettings, sensors: Sensors, listener: BenchListener) {
        measure(bundle, report, settings, sensors, listener, ExecuTorchEngine(threadsOr(settings.threads)))
    }

    /**
     * Memory of one picture on the calling thread; writes the `memory` of a report. Only the first thing that a launch of the app does.
     *
     * @throws mobile.s2p.S2PException as [measure].
     */
    public fun memory(bundle: File, out: File, settings: BenchSettings, sensors: Sensors, listener: BenchListener) {
        memory(bundle, out, settings, sensors, listener, ExecuTorchEngine(threadsOr(settings.threads)))
    }

    internal fun measure(
        bundle: File, report: File, settings: BenchSettings, sensors: Sensors, listener: BenchListener, engine: Engine,
    ) {
        Native.bench(
            bundle.path.encodeToByteArray(), deviceChip()?.encodeToByteArray(), report.path.encodeToByteArray(), settings.warmup,
            settings.runs, settings.cooldown, settings.minimum, settings.cool, threadsOr(settings.threads), settings.releaseChunks,
            settings.memoryApart, engine, sensors,
        ) { kind, index, total, milliseconds -> listener.onStep(BenchStep.entries[kind], index, total, milliseconds) }
    }

    internal fun memory(
        bundle: File, out: File, settings: BenchSettings, sensors: Sensors, listener: BenchListener, engine: Engine,
    ) {
        Native.memory(
            bundle.path.encodeToByteArray(), deviceChip()?.encodeToByteArray(), out.path.encodeToByteArray(), settings.releaseChunks,
            engine, sensors,
        ) { kind, index, total, milliseconds -> listener.onStep(BenchStep.entries[kind], index, total, milliseconds) }
    }
}
