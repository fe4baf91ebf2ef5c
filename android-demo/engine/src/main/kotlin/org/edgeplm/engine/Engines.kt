package org.edgeplm.engine

import org.edgeplm.bundle.BundleException
import org.edgeplm.bundle.Bundles
import org.edgeplm.bundle.ChatEngine
import org.edgeplm.bundle.Manifest
import org.edgeplm.bundle.TokenEngine
import java.io.File

/** Opens a bundle with the runtime that its manifest names. The app must have that runtime's library in it. */
object Engines {
    const val ONNX = "onnxruntime-genai"
    const val EXECUTORCH = "executorch"

    /** For answers in text. Throws EngineException, [BundleException]; takes seconds, so not on the main thread. */
    fun chat(folder: File, manifest: Manifest): ChatEngine = when (manifest.runtime.name) {
        EXECUTORCH -> ExecuTorchChat(folder, manifest)
        ONNX -> GenAiChat(folder, manifest)
        else -> throw unknown(folder, manifest)
    }

    /** For measuring on token ids; [threads] null leaves the number to the runtime. Throws as [chat] does. */
    fun tokens(folder: File, manifest: Manifest, threads: Int?): TokenEngine = when (manifest.runtime.name) {
        EXECUTORCH -> ExecuTorchTokens(folder, manifest, threads)
        ONNX -> GenAiTokens(folder, manifest, threads)
        else -> throw unknown(folder, manifest)
    }

    private fun unknown(folder: File, manifest: Manifest) = BundleException(
        "made for the runtime '${manifest.runtime.name}', which this app does not know", folder.path,
        "Known: $ONNX, $EXECUTORCH",
    )
}

/** The attached adapters' files by name. */
internal fun attachedFiles(folder: File, manifest: Manifest): Map<String, File> = manifest.attached.associate {
    it.name to Bundles.safePath(folder, requireNotNull(it.file), File(folder, Bundles.MANIFEST).path)
}

/** The message for an adapter that the bundle does not have. */
internal fun noAdapter(name: String, has: Collection<String>) =
    "has no attached adapter '$name'. It has: ${has.joinToString().ifEmpty { "none" }}"
