package mobile.s2p

import android.system.Os
import dalvik.system.BaseDexClassLoader
import java.io.File
import org.pytorch.executorch.ExecuTorchRuntime

/**
 * What an app has to bring for programs of Snapdragon's NPU: ExecuTorch with its QNN delegate, and Qualcomm's libraries as files.
 *
 * @property find where a library of this app lies, by the name that System.loadLibrary takes; null: the app has none of this name.
 */
internal class Npu(private val find: (String) -> String? = ::libraryOfThisApp) {
    /**
     * Tells the NPU where its own library lies. It looks there when the first program is loaded, so this comes before.
     *
     * @throws S2PException this app lacks a part; names what to add to its build.
     */
    fun prepare() {
        val missing = LIBRARIES.filter { find(it) == null }
        if (missing.isNotEmpty()) throw lacks(missing.joinToString(" and ") { "lib$it.so" } + " of Qualcomm")
        val folder = File(find(LIBRARIES.first())!!).absoluteFile.parentFile!!
        // A library inside of the APK has a place like base.apk!/lib/arm64-v8a, which only Android's linker can read.
        val files = folder.list() ?: throw lacks("Qualcomm's libraries as files")
        if (files.none(SKEL::matches)) throw lacks("libQnnHtpV..Skel.so of Qualcomm")
        Os.setenv("ADSP_LIBRARY_PATH", folder.path, true)
        if (DELEGATE !in ExecuTorchRuntime.getRegisteredBackends()) throw lacks("ExecuTorch's QNN delegate")
    }

    private fun lacks(part: String) = S2PException("this app lacks $part, which the NPU needs; $REMEDY")

    private companion object {
        val LIBRARIES = listOf("QnnHtp", "QnnSystem")

        /** What the NPU itself loads, for each of its versions another one. */
        val SKEL = Regex("libQnnHtpV\\d+Skel\\.so")
        const val DELEGATE = "QnnBackend"
        const val REMEDY =
            "build the measuring app with -Ps2p.npu=true, or put these lines into your app's build.gradle.kts: dependencies { " +
                "implementation(\"org.pytorch:executorch-android-qnn:1.4.0\") /* not executorch-android */ " +
                "implementation(\"com.qualcomm.qti:qnn-runtime:2.51.0\") } android { packaging { jniLibs.useLegacyPackaging = true } }"
    }
}

private fun libraryOfThisApp(name: String): String? = (Npu::class.java.classLoader as? BaseDexClassLoader)?.findLibrary(name)
