plugins {
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

// Snapdragon's NPU: another ExecuTorch, Qualcomm's libraries, and the system's own that talks to the NPU.
val npu = providers.gradleProperty("s2p.npu").get().toBoolean()

android {
    namespace = "mobile.s2p"
    compileSdk = 35
    // What ExecuTorch's own CI builds with; makes libraries for pages of 16 KB.
    ndkVersion = "28.2.13676358"

    defaultConfig {
        minSdk = 26
        consumerProguardFiles("consumer-rules.pro")
        ndk { abiFilters += "arm64-v8a" }
        externalNativeBuild {
            cmake {
                arguments += listOf(
                    "-DS2P_JNI=ON",
                    "-DS2P_TESTS=OFF",
                    "-DANDROID_STL=c++_shared",
                    "-DS2P_NLOHMANN_INCLUDE=${providers.gradleProperty("s2p.nlohmann").get()}",
                )
            }
        }
    }

    if (npu) sourceSets { getByName("main") { manifest.srcFile("src/npu/AndroidManifest.xml") } }

    externalNativeBuild { cmake { path = file("../CMakeLists.txt") } }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }

    // Both this library and the AAR of ExecuTorch bring the C++ runtime.
    packaging { jniLibs { pickFirsts += "**/libc++_shared.so" } }
}

kotlin { explicitApi() }

dependencies {
    api("org.jetbrains.kotlinx:kotlinx-coroutines-android:1.9.0")
    if (npu) {
        implementation("org.pytorch:executorch-android-qnn:${providers.gradleProperty("s2p.executorch.qnn").get()}")
        // ExecuTorch asks for an older one, which would not open what a newer compiler wrote.
        implementation("com.qualcomm.qti:qnn-runtime:${providers.gradleProperty("s2p.qnn").get()}")
    } else {
        implementation("org.pytorch:executorch-android:${providers.gradleProperty("s2p.executorch").get()}")
    }
}
