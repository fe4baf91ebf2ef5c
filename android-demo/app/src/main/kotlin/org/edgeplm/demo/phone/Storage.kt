package org.edgeplm.demo.phone

import android.content.Context
import org.edgeplm.bundle.Shelf
import java.io.File

/** Where this app keeps things. The folders that `adb` reaches are made when the app first starts. */
class Storage(private val context: Context) {
    /** Bundles: those taken in through the file picker, and those that `adb push` put there. */
    val shelf: Shelf get() = Shelf(listOf(File(context.filesDir, BUNDLES), shared(BUNDLES)).onEach { it.mkdirs() })

    /** Results of benchmarks: for `adb pull`, or [private] for `adb shell run-as`. */
    fun results(private: Boolean = false): File = folder("results", private)

    /** Plans of benchmarks that are too long for a command line. */
    fun plans(private: Boolean = false): File = folder("plans", private)

    /** Makes every folder that `adb` reaches. */
    fun prepare() {
        shelf
        results()
        plans()
    }

    private fun folder(name: String, private: Boolean) =
        (if (private) File(context.filesDir, name) else shared(name)).apply { mkdirs() }

    // Where there is no shared storage the app's own serves: `run-as` reaches it in a debug build.
    private fun shared(name: String) = context.getExternalFilesDir(name) ?: File(context.filesDir, name)

    private companion object {
        const val BUNDLES = "bundles"
    }
}
