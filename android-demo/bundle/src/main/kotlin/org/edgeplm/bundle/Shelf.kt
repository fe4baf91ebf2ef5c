package org.edgeplm.bundle

import java.io.File
import java.io.InputStream

/** A bundle on the shelf: its manifest, or the reason why it cannot be used. */
data class ShelfEntry(val folder: File, val manifest: Manifest?, val problem: String?)

/** Files somewhere else, such as behind Android's file picker, by their POSIX paths. */
interface BundleSource {
    /** What the bundle's folder is to be called, if the manifest does not say. */
    val name: String

    /** Opens a file. Throws IOException if it is not there. */
    fun open(path: String): InputStream
}

/** The folders in which an app keeps its bundles. Hashes are checked when a bundle is taken in or opened. */
class Shelf(private val folders: List<File>) {
    /** Every bundle, by name; one with a problem is listed with the reason. */
    fun entries(): List<ShelfEntry> = folders
        .flatMap { it.listFiles().orEmpty().toList() }
        .filter { it.isDirectory && !it.name.startsWith(".") }
        .distinctBy { it.name } // as [find] does: the first folder's goes before
        .sortedBy { it.name }
        .map { folder ->
            try {
                ShelfEntry(folder, Bundles.readManifest(folder).also { Bundles.verify(folder, it, hashes = false) }, null)
            } catch (problem: BundleException) {
                ShelfEntry(folder, null, problem.message)
            }
        }

    /** The folder of the bundle that [name] names: its folder's name, never a path. Throws [BundleException]. */
    fun find(name: String): File {
        val plain = name.isNotEmpty() && !name.startsWith(".") && '/' !in name && '\u0000' !in name
        return folders.takeIf { plain }.orEmpty().map { File(it, name) }.firstOrNull { it.isDirectory }
            ?: throw BundleException(
                "there is no bundle '${name.take(60)}'",
                folders.joinToString { it.path },
                "There are: ${entries().joinToString { it.folder.name }.ifEmpty { "none" }}",
            )
    }

    /**
     * Copies a bundle into the first folder, file by file as its manifest lists them, and checks every hash.
     *
     * It takes its name only once it is whole; one of the same name is replaced. [onBytes] is told how many bytes
     * of how many were copied. Throws [BundleException], IOException where the source cannot be read.
     */
    fun take(source: BundleSource, onBytes: (Long, Long) -> Unit = { _, _ -> }): File {
        val home = folders.first()
        val name = source.name.replace(Regex("""[/\\:\u0000]"""), "-").trim('.', ' ').ifEmpty { "bundle" }
        val staging = File(home, ".$name.incoming")
        try {
            staging.deleteRecursively()
            if (!staging.mkdirs()) throw BundleException("cannot be made", staging.path, "Free some space")
            copy(source, Bundles.MANIFEST, staging)
            val manifest = Bundles.readManifest(staging)
            checkSpace(manifest, home)
            var done = 0L
            for (entry in manifest.files) {
                copy(source, entry.path, staging) { onBytes(done + it, manifest.totalBytes) }
                done += entry.bytes
            }
            Bundles.open(staging)
            return File(home, name).also { replace(it, staging) }
        } finally {
            staging.deleteRecursively()
        }
    }

    /** The old one goes only once the new one has its place. */
    private fun replace(target: File, staging: File) {
        val retired = File(target.parentFile, ".${target.name}.old")
        retired.deleteRecursively()
        val replaces = target.exists()
        if (replaces && !target.renameTo(retired)) throw BundleException("is in use", target.path, "Try again")
        if (!staging.renameTo(target)) {
            if (replaces) retired.renameTo(target)
            throw BundleException("cannot be renamed", staging.path, "Try again")
        }
        retired.deleteRecursively()
    }

    private fun checkSpace(manifest: Manifest, home: File) {
        val free = home.usableSpace
        if (manifest.totalBytes + SPARE_BYTES <= free) return
        val found = "${manifest.totalBytes / MB} MB do not fit: ${free / MB} MB are free"
        throw BundleException(found, home.path, "Free some space, or export a smaller preset")
    }

    private fun copy(source: BundleSource, name: String, folder: File, onBytes: (Long) -> Unit = {}) {
        val target = Bundles.safePath(folder, name, "${source.name}, ${Bundles.MANIFEST}")
        target.parentFile?.mkdirs()
        source.open(name).use { from ->
            target.outputStream().use { to -> from.blocks(onBytes) { block, count -> to.write(block, 0, count) } }
        }
    }

    private companion object {
        const val MB = 1_000_000L
        const val SPARE_BYTES = 50 * MB
    }
}
