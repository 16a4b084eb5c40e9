// What the library uses of ExecuTorch's AAR 1.4.1, as its sources declare it:
// https://github.com/pytorch/executorch/tree/v1.4.1/extension/android/executorch_android/src/main/java/org/pytorch/executorch
// Tests put an engine behind Module; everything else holds what it was given.
@file:Suppress("UNUSED_PARAMETER")

package org.pytorch.executorch

import java.io.Closeable
import java.nio.Buffer
import java.nio.FloatBuffer
import java.nio.IntBuffer
import java.nio.LongBuffer

/** What stands for the native library: given path, load mode and threads, it answers calls; and what it says of itself and of a program. */
object StandIn {
    class Loaded(val path: String, val mode: Int, val threads: Int)

    val loaded: MutableList<Loaded> = java.util.Collections.synchronizedList(ArrayList())
    var destroyed: Int = 0
    var methods: (path: String) -> List<String> = { listOf("forward") }
    var backends: () -> List<String> = { listOf("XnnpackBackend") }
    val prepared: MutableList<String> = java.util.Collections.synchronizedList(ArrayList())
    var answer: (path: String, method: String, inputs: List<Tensor>) -> List<FloatArray> = { _, _, _ -> error("no engine") }
}

class ExecuTorchRuntime private constructor() {
    companion object {
        @JvmStatic fun getRegisteredBackends(): Array<String> = StandIn.backends().toTypedArray()
    }
}

class EValue private constructor(private val tensor: Tensor) {
    fun toTensor(): Tensor = tensor

    companion object {
        @JvmStatic fun from(tensor: Tensor): EValue = EValue(tensor)
    }
}

abstract class Tensor internal constructor(shape: LongArray) {
    protected val shape: LongArray = shape.copyOf()

    fun shape(): LongArray = shape.copyOf()

    open val dataAsFloatArray: FloatArray get() = error("no floats")

    open fun getRawDataBuffer(): Buffer = error("no data")

    private class Held(val data: Buffer, shape: LongArray) : Tensor(shape) {
        override fun getRawDataBuffer(): Buffer = data
        override val dataAsFloatArray: FloatArray get() = (data as FloatBuffer).let { FloatArray(it.remaining()).also(it.duplicate()::get) }
    }

    companion object {
        // As the real ones: memory outside of Java's heap, in the machine's byte order, as many numbers as the shape has.
        private fun held(data: Buffer, shape: LongArray): Tensor {
            require(data.isDirect) { "the data buffer must be direct" }
            require(data.remaining().toLong() == shape.fold(1L, Long::times)) { "inconsistent data and shape" }
            return Held(data, shape)
        }

        @JvmStatic fun fromBlob(data: FloatBuffer, shape: LongArray): Tensor = held(data, shape)
        @JvmStatic fun fromBlob(data: IntBuffer, shape: LongArray): Tensor = held(data, shape)
        @JvmStatic fun fromBlob(data: LongBuffer, shape: LongArray): Tensor = held(data, shape)
        @JvmStatic fun fromBlob(data: FloatArray, shape: LongArray): Tensor = Held(FloatBuffer.wrap(data), shape)
    }
}

open class Module private constructor(private val path: String) : Closeable {
    open fun execute(methodName: String, vararg inputs: EValue): Array<EValue> =
        StandIn.answer(path, methodName, inputs.map { it.toTensor() })
            .map { EValue.from(Tensor.fromBlob(it, longArrayOf(it.size.toLong()))) }.toTypedArray()

    open fun getMethods(): Array<String> = StandIn.methods(path).toTypedArray()

    open fun loadMethod(methodName: String) {
        require(methodName in getMethods()) { "Failed to load method: $methodName" }
        StandIn.prepared += methodName
    }

    open fun destroy() {
        StandIn.destroyed++
    }

    override fun close(): Unit = destroy()

    companion object {
        const val LOAD_MODE_FILE: Int = 0
        const val LOAD_MODE_MMAP: Int = 1

        @JvmStatic
        @JvmOverloads
        fun load(modelPath: String?, loadMode: Int = LOAD_MODE_FILE, numThreads: Int = 0): Module {
            require(!modelPath.isNullOrEmpty() && java.io.File(modelPath).canRead()) { "Cannot load model path: $modelPath" }
            StandIn.loaded += StandIn.Loaded(modelPath, loadMode, numThreads)
            return Module(modelPath)
        }
    }
}
