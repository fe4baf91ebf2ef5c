package org.edgeplm.demo.phone

import android.content.Context
import org.edgeplm.bundle.Shelf
import java.io.File

/** Where this app keeps things. The folders that `adb` reaches are made when the app first starts. */
class Storage(private val context: Context) {
    /** Bundles: those taken in through the file picker, and those that `adb push` put there. */
    val shelf: Shelf get() = Shelf(listOf(File(context.filesDir, BUNDLES), shared(BUNDLES)).onEach { it.mkdirs() })

    /** Results of benchmarks, for `adb pull`. */
    val results: File get() = shared("results").apply { mkdirs() }

    /** Plans of benchmarks that are too long for a command line. */
    val plans: File get() = shared("plans").apply { mkdirs() }

    /** Makes every folder. */
    fun prepare() {
        shelf
        results
        plans
    }

    // Where there is no shared storage the app's own serves: `run-as` reaches it in a debug build.
    private fun shared(name: String) = context.getExternalFilesDir(name) ?: File(context.filesDir, name)

    private companion object {
        const val BUNDLES = "bundles"
    }
}
