plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
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
    }

    // Measured as it is published; signed with the key of this machine, since it goes to one's own phone.
    buildTypes {
        release { signingConfig = signingConfigs.getByName("debug") }
    }

    // The NPU reads its library from a file: of an app for it, libraries are unpacked when it is installed.
    packaging { jniLibs.useLegacyPackaging = providers.gradleProperty("s2p.npu").get().toBoolean() }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions {
        jvmTarget = "17"
        optIn += "mobile.s2p.bench.BenchApi"
    }
}

dependencies {
    implementation(project(":library"))
    implementation("androidx.core:core-ktx:1.13.1")
}
