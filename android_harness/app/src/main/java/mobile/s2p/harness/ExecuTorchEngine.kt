package mobile.s2p.harness

import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** The ExecuTorch AAR as an [Engine]. */
class ExecuTorchEngine : Engine {
    override fun load(path: String): EngineProgram {
        val module = Module.load(path, Module.LOAD_MODE_MMAP)
        // Otherwise the first run would prepare the program, and the report would count that to the first picture.
        module.loadMethod("forward")
        return ExecuTorchProgram(module)
    }
}

private class ExecuTorchProgram(private val module: Module) : EngineProgram {
    override fun run(inputs: Array<ByteBuffer>, dtypes: IntArray, shapes: Array<LongArray>): Array<FloatArray> {
        val values = Array(inputs.size) { i -> EValue.from(tensor(inputs[i].order(ByteOrder.nativeOrder()), dtypes[i], shapes[i])) }
        return module.forward(*values).map { it.toTensor().dataAsFloatArray }.toTypedArray()
    }

    override fun close() = module.destroy()

    private fun tensor(bytes: ByteBuffer, dtype: Int, shape: LongArray): Tensor = when (dtype) {
        1 -> Tensor.fromBlob(bytes.asFloatBuffer(), shape)
        2 -> Tensor.fromBlob(bytes.asIntBuffer(), shape)
        3 -> Tensor.fromBlob(bytes.asLongBuffer(), shape)
        else -> throw IllegalArgumentException("dtype $dtype is not fed by this app")
    }
}
