plugins {
    id("com.android.application") version "8.7.3"
    id("org.jetbrains.kotlin.android") version "2.0.21"
}

android {
    namespace = "mobile.s2p.harness"
    compileSdk = 35

    defaultConfig {
        applicationId = "mobile.s2p.harness"
        minSdk = 26
        targetSdk = 35
        versionCode = 1
        versionName = "0.1.0"
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

    // Both this library and the AAR bring the C++ runtime.
    packaging { jniLibs { pickFirsts += "**/libc++_shared.so" } }
}

dependencies {
    implementation("androidx.core:core-ktx:1.13.1")
    implementation("org.pytorch:executorch-android:${providers.gradleProperty("s2p.executorch").get()}")
}
