import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    `java-library`
    alias(libs.plugins.kotlin.jvm)
}

// Android 8's class library is Java 8's.
java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

kotlin {
    compilerOptions {
        jvmTarget = JvmTarget.JVM_1_8
        freeCompilerArgs.add("-Xjdk-release=8")
    }
    // The helpers of the tests, which read the vectors of the repository.
    sourceSets.named("test") { kotlin.srcDir(rootDir.resolve("testing")) }
}

dependencies {
    api(project(":bundle"))
    implementation(libs.gson)
    testImplementation(libs.kotlin.test)
    testImplementation(libs.junit)
}
