package mobile.s2p.planted

import android.graphics.Bitmap
import java.io.File
import mobile.s2p.Native // mistake: internal to the library
import mobile.s2p.Pipeline
import org.pytorch.executorch.Module

// Every line with a mistake must be refused by the compilation, and no other; tests/android/test_kotlin.py compares.

fun publicWithoutSayingSo(): Int = 1 // mistake: the API says of everything whether it is public

public fun wrongName(pixels: IntArray): Bitmap = Bitmap.createBitmaps(pixels, 1, 1, Bitmap.Config.ARGB_8888) // mistake: no such function

public fun wrongType(path: String): Module = Module.load(path, "mmap") // mistake: a mode is a number

public fun notInACoroutine(folder: File): Pipeline = Pipeline.open(folder) // mistake: only coroutines may call it

public fun notForApps(): Unit = mobile.s2p.bench.Benchmark.hashCode().let { } // mistake: without opting in

public fun right(folder: File): String = File(folder, "a").name
