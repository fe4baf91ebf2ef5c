package org.edgeplm.bench

import com.google.gson.GsonBuilder
import java.io.Closeable
import java.io.File
import java.io.Writer

/** Writes samples, one JSON object a line, and remembers the step that is under way. */
class Samples(private val out: Writer, private val onSample: (Map<String, Any?>) -> Unit = {}) {
    var step = "start"
        private set

    /** Writes one sample with the monotonic time in seconds. */
    fun emit(kind: String, fields: Map<String, Any?> = emptyMap()) {
        val sample = linkedMapOf<String, Any?>("kind" to kind, "t" to System.nanoTime() / 1e9) + fields
        out.write(GSON.toJson(sample) + "\n")
        out.flush()
        onSample(sample)
    }

    /** Says what comes next, so that a crash can be placed. */
    fun begin(step: String) {
        this.step = step
        emit("step", mapOf("name" to step))
    }

    private companion object {
        val GSON = GsonBuilder().serializeNulls().disableHtmlEscaping().create()
    }
}

/**
 * The file that the host pulls. It grows as `NAME.part` and takes its name when the run has ended, so a host that
 * sees the name has the whole of it.
 */
class ResultFile(private val path: File) : Closeable {
    private val growing = File(path.parentFile, path.name + ".part")
    val writer: Writer

    init {
        path.parentFile?.mkdirs()
        path.delete()
        writer = growing.writer()
    }

    override fun close() {
        writer.close()
        growing.renameTo(path)
    }
}
