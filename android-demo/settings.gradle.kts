pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositoriesMode = RepositoriesMode.FAIL_ON_PROJECT_REPOS
    repositories {
        google()
        mavenCentral()
        // ONNX Runtime GenAI's AAR is on its project's release page, not in a Maven repository: see libs/README.md
        flatDir { dirs(rootDir.resolve("libs")) }
    }
}

rootProject.name = "edgeplm-android-demo"
include(":bundle", ":bench", ":engine", ":app")
