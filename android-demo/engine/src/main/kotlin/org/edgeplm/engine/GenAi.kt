package org.edgeplm.engine

import ai.onnxruntime.genai.Adapters
import ai.onnxruntime.genai.GenAIException
import ai.onnxruntime.genai.Generator
import ai.onnxruntime.genai.GeneratorParams
import ai.onnxruntime.genai.Model
import ai.onnxruntime.genai.Tokenizer
import org.edgeplm.bundle.ChatEngine
import org.edgeplm.bundle.EngineException
import org.edgeplm.bundle.Finish
import org.edgeplm.bundle.Manifest
import org.edgeplm.bundle.TokenEngine
import java.io.File

/** A loaded ONNX Runtime GenAI model with its attached adapters; each is read once and stays in memory. */
internal class GenAiModel(folder: File, manifest: Manifest) : AutoCloseable {
    private val files = attachedFiles(folder, manifest)
    private val loaded = mutableSetOf<String>()
    private var adapters: Adapters? = null
    private val model = genAi("load the bundle") { Model(folder.path) }
    val names = files.keys.toList()
    var adapter: String? = null
        private set

    fun useAdapter(name: String?) {
        if (name != null && name !in loaded) {
            val file = files[name] ?: throw EngineException(noAdapter(name, names))
            genAi("load ${file.name}") {
                val all = adapters ?: Adapters(model).also { adapters = it }
                all.loadAdapter(file.path, name)
            }
            loaded += name
        }
        adapter = name
    }

    fun tokenizer(): Tokenizer = genAi("load the tokenizer") { Tokenizer(model) }

    /** A generator for one prompt, greedy; its KV cache is allocated for [maxLength] tokens at once. */
    fun generator(maxLength: Int): Generator = genAi("start an answer") {
        GeneratorParams(model).use { params ->
            params.setSearchOption("max_length", maxLength.toDouble())
            params.setSearchOption("do_sample", false)
            Generator(model, params).also { made -> adapter?.let { made.setActiveAdapter(requireNotNull(adapters), it) } }
        }
    }

    override fun close() {
        adapters?.close()
        adapters = null
        model.close()
    }
}

/** An ONNX bundle through the stock GenAI Java API. */
class GenAiChat(folder: File, private val manifest: Manifest) : ChatEngine {
    override val name = Engines.ONNX
    override val version = "unknown" // the Java API does not tell
    private val model = GenAiModel(folder, manifest)
    private val tokenizer = model.tokenizer()
    override val adapters = model.names

    @Volatile
    private var stopRequested = false

    override fun useAdapter(name: String?) = model.useAdapter(name)

    override fun generate(prompt: String, maxNewTokens: Int, onText: (String) -> Unit): Finish {
        stopRequested = false
        val ids = genAi("read the prompt") { tokenizer.encode(prompt).use { it.getSequence(0) } }
        if (ids.size >= manifest.contextLength) {
            throw EngineException("${ids.size} tokens do not fit a context of ${manifest.contextLength}")
        }
        val stop = manifest.tokens.stop.toSet()
        // The cache grows with max_length, so no more is asked for than the answer can need.
        val longest = minOf(ids.size + maxNewTokens, manifest.contextLength)
        return genAi("answer") {
            model.generator(longest).use { generator ->
                tokenizer.createStream().use { stream ->
                    generator.appendTokens(ids)
                    var finish = Finish.LENGTH
                    while (!generator.isDone) {
                        if (stopRequested) return@genAi Finish.STOPPED
                        generator.generateNextToken()
                        val token = generator.getLastTokenInSequence(0)
                        if (token in stop) {
                            finish = Finish.STOP_TOKEN
                            break
                        }
                        stream.decode(token).takeIf { it.isNotEmpty() }?.let(onText)
                    }
                    finish
                }
            }
        }
    }

    override fun stop() {
        stopRequested = true
    }

    override fun reset() = Unit // every answer has a generator of its own

    override fun close() {
        tokenizer.close()
        model.close()
    }
}

/**
 * The same on token ids. The Java API gives no logits out, so [pick] lets the generator choose, which appends the
 * token: it is timed behind a prompt only.
 */
class GenAiTokens(folder: File, manifest: Manifest, threads: Int?) : TokenEngine {
    override val name = Engines.ONNX
    override val version = "unknown"
    override val contextLength = manifest.contextLength
    override val vocabSize = manifest.tokens.vocabSize
    override val picksFreely = false
    override val logits: FloatArray? = null
    private val model: GenAiModel
    private var generator: Generator? = null
    private var picked: Int? = null

    init {
        if (threads != null) {
            throw EngineException(
                "ONNX Runtime GenAI's Java API cannot set the number of threads (it has no Config.overlay). " +
                    "Leave threads out of the plan: the runtime chooses",
            )
        }
        model = GenAiModel(folder, manifest)
    }

    override val adapters = model.names

    override fun useAdapter(name: String?) {
        forget() // what it remembers was read by somebody else
        model.useAdapter(name)
    }

    override fun prefill(ids: IntArray) {
        if (ids.isEmpty() || ids.size >= contextLength) {
            throw EngineException("a prompt of ${ids.size} tokens does not fit a context of $contextLength")
        }
        forget()
        generator = model.generator(contextLength).also { genAi("read the prompt") { it.appendTokens(ids) } }
    }

    override fun decode(token: Int) {
        val generator = generator ?: throw EngineException("decode before prefill")
        if (picked == token) { // it is in the sequence already; the next step runs it
            picked = null
            return
        }
        genAi("decode") { generator.appendTokens(intArrayOf(token)) }
    }

    override fun pick(): Int {
        val generator = generator ?: throw EngineException("pick before prefill")
        return genAi("choose a token") {
            generator.generateNextToken()
            generator.getLastTokenInSequence(0)
        }.also { picked = it }
    }

    override fun close() {
        forget()
        model.close()
    }

    private fun forget() {
        generator?.close()
        generator = null
        picked = null
    }
}

private inline fun <T> genAi(what: String, action: () -> T): T = try {
    action()
} catch (error: GenAIException) {
    throw EngineException("ONNX Runtime GenAI could not $what (${error.message})", error)
} catch (error: IllegalStateException) { // a handle that was freed
    throw EngineException("ONNX Runtime GenAI could not $what (${error.message})", error)
}
