package org.edgeplm.engine

import org.edgeplm.bundle.EngineException
import org.edgeplm.bundle.Manifest
import org.edgeplm.bundle.TokenEngine
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor
import java.io.File

/**
 * An ExecuTorch program on token ids, through the general [Module]: (tokens int64 [1, T], input_pos int64 [1]) to
 * the last logits [1, vocab], which is how EdgePLM's exporter makes them.
 *
 * [Module] takes no second file, so a base with attached adapters (`base.ptd`) cannot be measured this way.
 */
class ExecuTorchTokens(folder: File, manifest: Manifest, threads: Int?) : TokenEngine {
    override val name = Engines.EXECUTORCH
    override val version = "unknown"
    override val adapters = emptyList<String>()
    override val contextLength = manifest.contextLength
    override val vocabSize = manifest.tokens.vocabSize
    override val picksFreely = true
    private var module: Module? = null
    private var position = 0
    override var logits = FloatArray(0)
        private set

    init {
        if (File(folder, ExecuTorchChat.BASE).isFile) {
            throw EngineException(
                "ExecuTorch's Module cannot read base.ptd, so attached adapters are not measured on the phone. " +
                    "Export the person merged (export.form: merged) and measure that",
            )
        }
        module = running("load the program") {
            Module.load(File(folder, ExecuTorchChat.PROGRAM).path, Module.LOAD_MODE_MMAP, threads ?: 0)
        }
        // The first call reads and packs the weights, which belongs to loading and is where damage shows.
        step(longArrayOf(0))
        position = 0
    }

    override fun useAdapter(name: String?) {
        if (name != null) throw EngineException(noAdapter(name, adapters))
    }

    override fun prefill(ids: IntArray) {
        if (ids.isEmpty() || ids.size >= contextLength) {
            throw EngineException("a prompt of ${ids.size} tokens does not fit a context of $contextLength")
        }
        position = 0
        step(LongArray(ids.size) { ids[it].toLong() })
    }

    override fun decode(token: Int) {
        if (position >= contextLength) throw EngineException("the context of $contextLength tokens is full")
        step(longArrayOf(token.toLong()))
    }

    override fun pick(): Int {
        var best = 0
        for (index in 1 until logits.size) if (logits[index] > logits[best]) best = index
        return best
    }

    override fun close() {
        module?.destroy()
        module = null
    }

    private fun step(ids: LongArray) {
        val module = module ?: throw EngineException("the model was closed")
        val tokens = Tensor.fromBlob(ids, longArrayOf(1, ids.size.toLong()))
        val place = Tensor.fromBlob(longArrayOf(position.toLong()), longArrayOf(1))
        val outputs = running("run the program") { module.forward(EValue.from(tokens), EValue.from(place)) }
        if (outputs.isEmpty()) throw EngineException("ExecuTorch could not run the program: it returned nothing")
        logits = outputs[0].toTensor().dataAsFloatArray
        position += ids.size
    }

    private inline fun <T> running(what: String, action: () -> T): T = try {
        action()
    } catch (error: RuntimeException) {
        throw EngineException("ExecuTorch could not $what (${error.message})", error)
    }
}
