plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "org.edgeplm.engine"
    compileSdk = libs.versions.compile.sdk.get().toInt()
    defaultConfig {
        minSdk = libs.versions.min.sdk.get().toInt()
        consumerProguardFiles("consumer-rules.pro")
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

dependencies {
    api(project(":bundle"))
    implementation(libs.executorch)
    implementation(libs.onnxruntime)
    // A library cannot carry a local AAR with it, so the app takes it in.
    compileOnly(variantOf(libs.onnxruntime.genai) { artifactType("aar") })
}
