package org.edgeplm.bundle

import com.google.gson.JsonObject
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest

/** Reading and checking bundles: a folder with `manifest.json` beside files in the runtime's own convention. */
object Bundles {
    const val MANIFEST = "manifest.json"
    private const val GENAI_CONFIG = "genai_config.json"

    /** Kinds of files that a bundle may hold: none of them is code. */
    val ALLOWED_SUFFIXES = setOf(
        ".onnx", ".data", ".pte", ".ptd", ".safetensors", ".onnx_adapter", ".json", ".jinja", ".txt", ".model", ".md",
    )

    /** [readManifest] and [verify] in one call. */
    fun open(folder: File, onBytes: (Long) -> Unit = {}): Manifest =
        readManifest(folder).also { verify(folder, it, onBytes = onBytes) }

    /** Reads and validates `manifest.json`. Throws [BundleException] with the field that is wrong. */
    fun readManifest(folder: File): Manifest {
        val path = File(folder, MANIFEST)
        if (!folder.isDirectory) throw BundleException("no such folder", folder.path, "Give a bundle's folder")
        if (!path.isFile) {
            throw BundleException("is no bundle: it has no $MANIFEST", folder.path, "Make one with `edgeplm export`")
        }
        val members = reading(path) { Json.parse(it) } as? JsonObject
            ?: throw BundleException("is not a JSON object", path.path, Fields.AGAIN)
        val manifest = Manifest.read(members, path.path)
        checkPaths(folder, manifest, path.path)
        refuseNativeCode(File(folder, GENAI_CONFIG))
        return manifest
    }

    /**
     * Checks that every listed file is there with its size and, unless [hashes] is false, its sha256.
     *
     * [onBytes] is told how many bytes were read so far. Throws [BundleException] with the first file that is
     * missing, cut short or altered.
     */
    fun verify(folder: File, manifest: Manifest, hashes: Boolean = true, onBytes: (Long) -> Unit = {}) {
        var done = 0L
        for (entry in manifest.files) {
            val path = safePath(folder, entry.path, File(folder, MANIFEST).path)
            val again = "Copy or export the bundle again"
            if (!path.isFile) throw BundleException("is missing", path.path, again)
            if (path.length() != entry.bytes) {
                val found = "has ${path.length()} bytes, the manifest says ${entry.bytes}"
                throw BundleException(found, path.path, again)
            }
            if (hashes && sha256(path) { onBytes(done + it) } != entry.sha256) {
                throw BundleException("was altered: its sha256 differs from the manifest's", path.path, again)
            }
            done += entry.bytes
        }
    }

    /** `folder/name`, or [BundleException] if `name` would lead out of the folder (links followed). */
    fun safePath(folder: File, name: String, where: String): File {
        val parts = parts(name)
        val plain = !name.startsWith("/") && ".." !in parts && '\\' !in name && '\u0000' !in name
        if (plain && parts.isNotEmpty() && ':' !in parts[0]) {
            val path = File(folder, parts.joinToString("/"))
            if (staysInside(folder, path)) return path
        }
        throw BundleException(
            "'${printable(name)}' leaves the bundle's folder", where, "Do not use this bundle; export it again",
        )
    }

    /** Hex sha256 of a file; [onBytes] is told how many bytes were read so far. */
    fun sha256(path: File, onBytes: (Long) -> Unit = {}): String {
        val digest = MessageDigest.getInstance("SHA-256")
        path.inputStream().use { stream -> stream.blocks(onBytes) { block, count -> digest.update(block, 0, count) } }
        return digest.digest().joinToString("") { "%02x".format(it) }
    }

    private fun checkPaths(folder: File, manifest: Manifest, where: String) {
        val seen = mutableSetOf<List<String>>()
        manifest.files.forEachIndexed { index, entry ->
            safePath(folder, entry.path, "$where, files[$index].path")
            val suffix = suffix(entry.path)
            if (suffix !in ALLOWED_SUFFIXES) {
                val found = "a bundle may not hold a ${suffix.ifEmpty { "nameless" }} file"
                val allowed = "Allowed: ${ALLOWED_SUFFIXES.sorted().joinToString()}"
                throw BundleException(found, "$where, files[$index].path", allowed)
            }
            if (!seen.add(parts(entry.path))) {
                throw BundleException("lists ${entry.path} twice", where, Fields.AGAIN)
            }
        }
        manifest.adapters.forEachIndexed { index, adapter ->
            if (adapter.file != null && parts(adapter.file) !in seen) {
                val found = "adapters[$index].file '${printable(adapter.file)}' is not among the files"
                throw BundleException(found, where, Fields.AGAIN)
            }
        }
    }

    /** ONNX Runtime GenAI would load and run a library that its configuration names. */
    private fun refuseNativeCode(config: File) {
        if (config.isFile && "custom_ops_library" in reading(config) { Json.names(it) }) {
            throw BundleException(
                "names a library of native code (custom_ops_library)",
                config.path,
                "Do not use this bundle; export it again",
            )
        }
    }

    private fun <T> reading(path: File, read: (ByteArray) -> T): T = try {
        read(path.readBytes())
    } catch (error: NotJson) {
        throw BundleException("is not valid JSON (${error.message})", path.path, Fields.AGAIN)
    } catch (error: IOException) {
        throw BundleException("cannot be read (${error.message})", path.path, "Copy the bundle again")
    }

    private fun parts(name: String) = name.split('/').filter { it.isNotEmpty() && it != "." }

    private fun suffix(name: String): String {
        val last = parts(name).lastOrNull().orEmpty()
        val dot = last.lastIndexOf('.')
        return if (dot <= 0 || dot == last.length - 1) "" else last.substring(dot)
    }

    private fun staysInside(folder: File, path: File): Boolean {
        if (!Charsets.UTF_8.newEncoder().canEncode(path.path)) return false // half a surrogate pair
        return path.canonicalFile.toPath().startsWith(folder.canonicalFile.toPath())
    }

    private fun printable(name: String) =
        name.take(80).map { if (it.isISOControl() || it.isSurrogate()) '\uFFFD' else it }.joinToString("")
}

/** Reads to the end in blocks; [onBytes] is told how many bytes were read so far. */
internal fun InputStream.blocks(onBytes: (Long) -> Unit, use: (ByteArray, Int) -> Unit) {
    val block = ByteArray(BLOCK)
    var done = 0L
    while (true) {
        val count = read(block)
        if (count < 0) return
        use(block, count)
        done += count
        onBytes(done)
    }
}

private const val BLOCK = 1 shl 20
