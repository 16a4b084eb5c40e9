plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "mobile.s2p.example"
    compileSdk = 35

    defaultConfig {
        applicationId = "mobile.s2p.example"
        minSdk = 26
        targetSdk = 35
        versionCode = 1
        versionName = "1.0"
        ndk { abiFilters += "arm64-v8a" }
    }

    // The NPU reads its library from a file: of an app for it, libraries are unpacked when it is installed.
    packaging { jniLibs.useLegacyPackaging = providers.gradleProperty("s2p.npu").get().toBoolean() }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }
}

dependencies {
    implementation(project(":library"))
}
