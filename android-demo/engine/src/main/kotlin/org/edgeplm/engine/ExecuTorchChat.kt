package org.edgeplm.engine

import org.edgeplm.bundle.ChatEngine
import org.edgeplm.bundle.EngineException
import org.edgeplm.bundle.Finish
import org.edgeplm.bundle.Manifest
import org.edgeplm.bundle.StopFilter
import org.pytorch.executorch.extension.llm.LlmCallback
import org.pytorch.executorch.extension.llm.LlmGenerationConfig
import org.pytorch.executorch.extension.llm.LlmModule
import org.pytorch.executorch.extension.llm.LlmModuleConfig
import java.io.File

/**
 * An ExecuTorch bundle through the stock [LlmModule], which brings its own tokenizer and generation loop.
 *
 * People attached to one base are programs of their own over the same `base.ptd`; one of them is in memory at a
 * time, so a switch loads a program (tens of kilobytes to megabytes) and maps the base again.
 */
class ExecuTorchChat(private val folder: File, private val manifest: Manifest) : ChatEngine {
    override val name = Engines.EXECUTORCH
    override val version = "unknown" // the library does not tell
    private val files = attachedFiles(folder, manifest)
    override val adapters = files.keys.toList()
    private var adapter: String? = null

    @Volatile
    private var module: LlmModule? = null

    @Volatile
    private var stopRequested = false

    init {
        load(null)
    }

    override fun useAdapter(name: String?) {
        if (name != null && name !in files) throw EngineException(noAdapter(name, adapters))
        if (name == adapter && module != null) return reset()
        load(name)
    }

    override fun generate(prompt: String, maxNewTokens: Int, onText: (String) -> Unit): Finish {
        val module = module ?: throw EngineException("the model was closed")
        stopRequested = false
        module.resetContext()
        val answer = Answer(maxNewTokens, onText) { module.stop() }
        // The length of prompt and answer together; the answer's own limit is kept by Answer, which counts.
        val config = LlmGenerationConfig.create().seqLen(manifest.contextLength).echo(false).temperature(0f).build()
        guarded("answer") { refuseCode(module.generate(prompt, config, answer), "answer") }
        answer.close()
        return when {
            stopRequested -> Finish.STOPPED
            answer.full -> Finish.LENGTH
            else -> Finish.STOP_TOKEN
        }
    }

    override fun stop() {
        stopRequested = true
        module?.stop()
    }

    override fun reset() {
        module?.resetContext()
    }

    override fun close() {
        val open = module ?: return
        module = null
        @Suppress("DEPRECATION") // in later versions the same as close(), which earlier ones do not have
        open.resetNative()
    }

    private fun load(name: String?) {
        close() // before the next one takes memory
        val program = if (name == null) File(folder, PROGRAM) else files.getValue(name)
        val config = LlmModuleConfig.create()
            .modulePath(program.path)
            .tokenizerPath(File(folder, TOKENIZER).path)
            .temperature(0f) // greedy, as in all of EdgePLM's measurements
        val base = File(folder, BASE)
        if (base.isFile) config.dataPath(base.path)
        val opened = guarded("open ${program.name}") { LlmModule(config.build()) }
        module = opened
        try {
            guarded("load ${program.name}") { refuseCode(opened.load(), "load ${program.name}") }
        } catch (error: EngineException) {
            close()
            throw error
        }
        adapter = name
    }

    /** Some versions return an error code, later ones throw: both end as [EngineException]. */
    private fun refuseCode(outcome: Any?, what: String) {
        if (outcome is Int && outcome != 0) throw EngineException("ExecuTorch could not $what (error $outcome)")
    }

    private inline fun <T> guarded(what: String, action: () -> T): T = try {
        action()
    } catch (error: RuntimeException) {
        throw EngineException("ExecuTorch could not $what (${error.message})", error)
    }

    /** Counts tokens, ends the answer at its limit, and keeps the stop token's text out of it. */
    private inner class Answer(
        private val limit: Int,
        private val onText: (String) -> Unit,
        private val end: () -> Unit,
    ) : LlmCallback {
        private val filter = StopFilter(manifest.tokens.stopTexts)
        private var count = 0
        val full get() = count >= limit && !filter.stopped

        override fun onResult(result: String) {
            if (count >= limit || filter.stopped) return
            filter.push(result).takeIf { it.isNotEmpty() }?.let(onText)
            count++
            if (count >= limit || filter.stopped) end()
        }

        fun close() {
            if (!filter.stopped) filter.end().takeIf { it.isNotEmpty() }?.let(onText)
        }
    }

    internal companion object {
        const val PROGRAM = "model.pte"
        const val BASE = "base.ptd"
        const val TOKENIZER = "tokenizer.json"
    }
}
