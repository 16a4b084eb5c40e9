package mobile.s2p

import android.os.Build
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** An engine that loads programs; called from the core. */
internal interface Engine {
    /**
     * @param path of the program, UTF-8
     * @param method of another picture size than the first, UTF-8; null: the one that the program has anyway
     */
    fun load(path: ByteArray, method: ByteArray?): EngineProgram

    /** Called before the first [load] where programs are compiled for chips. Throws [S2PException] when this app lacks what they need. */
    fun prepareNpu()
}

/** A loaded program; called from the core, from one thread at a time. */
internal interface EngineProgram {
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

/**
 * Threads where nobody names a number: half the processors, as ExecuTorch's own library for Android has it. One thread on a slow core
 * makes all others wait.
 */
internal fun threadsOr(given: Int): Int = if (given > 0) given else maxOf(1, Runtime.getRuntime().availableProcessors() / 2)

/** The chip as manifests name it; null before Android 12, which is the first to tell. */
internal fun deviceChip(): String? =
    if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) Build.SOC_MODEL.takeIf { it != Build.UNKNOWN } else null

/** The ExecuTorch AAR. */
internal class ExecuTorchEngine(private val threads: Int, private val npu: Npu = Npu()) : Engine {
    override fun prepareNpu() = npu.prepare()

    override fun load(path: ByteArray, method: ByteArray?): EngineProgram {
        val module = Module.load(path.decodeToString(), Module.LOAD_MODE_MMAP, threads)
        // Without a name, the one that there is, whoever named it; of several, one for each picture size, the first size's.
        val asked = method?.decodeToString() ?: module.getMethods().singleOrNull() ?: FIRST_METHOD
        // Otherwise the first run would prepare the program, and a report would count that to the first picture.
        module.loadMethod(asked)
        return ExecuTorchProgram(module, asked)
    }

    private class ExecuTorchProgram(private val module: Module, private val method: String) : EngineProgram {
        override fun run(inputs: Array<ByteBuffer>, dtypes: IntArray, shapes: Array<LongArray>): Array<FloatArray> {
            val values = Array(inputs.size) { i -> EValue.from(tensor(inputs[i].order(ByteOrder.nativeOrder()), dtypes[i], shapes[i])) }
            return module.execute(method, *values).map { it.toTensor().dataAsFloatArray }.toTypedArray()
        }

        override fun close() = module.destroy()

        private fun tensor(bytes: ByteBuffer, dtype: Int, shape: LongArray): Tensor = when (dtype) {
            1 -> Tensor.fromBlob(bytes.asFloatBuffer(), shape)
            2 -> Tensor.fromBlob(bytes.asIntBuffer(), shape)
            3 -> Tensor.fromBlob(bytes.asLongBuffer(), shape)
            else -> throw IllegalArgumentException("no program of a bundle takes a tensor of type $dtype")
        }
    }

    private companion object {
        const val FIRST_METHOD = "forward"
    }
}
