plugins {
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

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
    implementation("org.pytorch:executorch-android:${providers.gradleProperty("s2p.executorch").get()}")
}
