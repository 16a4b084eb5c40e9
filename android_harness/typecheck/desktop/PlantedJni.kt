package mobile.s2p

import java.io.File

/** A native function that uses JNI wrongly: whoever looks for such uses must find this one. */
internal object PlantedJni {
    @JvmStatic external fun mistake()

    fun run(library: File) {
        System.load(library.path)
        runCatching { mistake() }
    }
}
