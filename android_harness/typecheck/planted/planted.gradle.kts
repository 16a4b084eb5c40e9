// Every line with a mistake must be refused, and no other; tests/android/test_kotlin.py compares.
plugins {
    id("com.android.library")
}

android {
    namespace = = "mobile.s2p" // mistake: a sign too many
    compileSdk = 35
    defaultConfig { ndk { abiFilters += listOf("arm64-v8a" } } // mistake: a bracket is open
    ndkVersion = 'r28' // mistake: these are not the quotes of a text
}
