package org.edgeplm.demo.core

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import org.edgeplm.bundle.BundleSource
import org.edgeplm.bundle.Bundles
import org.edgeplm.bundle.ChatEngine
import org.edgeplm.bundle.EngineException
import org.edgeplm.bundle.Finish
import org.edgeplm.bundle.Manifest
import org.edgeplm.bundle.Shelf
import org.edgeplm.bundle.prompt
import java.io.File
import java.io.IOException

/** Loads a bundle that was checked; see `Engines.chat`. */
typealias OpenChat = (File, Manifest) -> ChatEngine

/**
 * The chat without a screen: choose a bundle, ask, stop, switch the person. Plain Kotlin, so tests run it.
 *
 * Everything slow runs on [worker], which must be a single thread: engines take one call at a time. Every other
 * function returns at once and may be called from the main thread; [state] tells what came of it.
 */
class ChatModel(
    private val scope: CoroutineScope,
    private val worker: CoroutineDispatcher,
    private val shelf: Shelf,
    private val openChat: OpenChat,
) {
    private val current = MutableStateFlow(ChatState())
    val state: StateFlow<ChatState> = current.asStateFlow()

    // Touched on the worker only; stop() reads the engine.
    @Volatile
    private var engine: ChatEngine? = null
    private var manifest: Manifest? = null
    private var folder: File? = null

    @Volatile
    private var stopping = false

    /** Lists the bundles again. */
    fun refresh(): Job = working("Looking for bundles") { list() }

    /** Checks the bundle [name], hashes included, and loads it. What was said stays on the screen. */
    fun open(name: String): Job = working("Checking $name") {
        closeEngine()
        current.update { it.copy(bundle = null, people = emptyList(), person = null) }
        val found = shelf.find(name)
        val whole = Bundles.readManifest(found).also { manifest ->
            val total = manifest.totalBytes.coerceAtLeast(1)
            Bundles.verify(found, manifest) { done -> progress("Checking $name", done.toFloat() / total) }
        }
        progress("Loading $name", null)
        folder = found
        manifest = whole
        engine = openChat(found, whole)
        val people = whole.attached.map { it.name }
        current.update { it.copy(bundle = name, about = about(whole), people = people) }
    }

    /** Copies a bundle from elsewhere into the app, checks it, and lists it; a broken one leaves nothing behind. */
    fun take(source: BundleSource): Job = working("Copying ${source.name}") {
        shelf.take(source) { done, total -> progress("Copying ${source.name}", done.toFloat() / total.coerceAtLeast(1)) }
        list()
    }

    /** The next answers are by [person]; null: by the base, or by the person who is merged into it. */
    fun choose(person: String?): Job = working("Switching") {
        loaded().useAdapter(person)
        current.update { it.copy(person = person) }
    }

    /** Asks as the chosen person. Each message is answered by itself, as in training. */
    fun send(text: String): Job = answering(text) { listOf(state.value.person) }

    /** Asks the base and everybody, one after another, so that the answers can be compared. */
    fun askEverybody(text: String): Job = answering(text) { listOf(null) + state.value.people }

    /** Ends the answer that is under way, and those that were to follow. */
    fun stop() {
        stopping = true
        engine?.stop()
    }

    /** Gives the model's memory back, between two answers; the next question loads it again. */
    fun release(): Job = scope.launch(worker) { closeEngine() }

    /** Back to the list of bundles; the model's memory is given back. */
    fun leave(): Job = working("Closing") {
        closeEngine()
        folder = null
        manifest = null
        current.update { it.copy(bundle = null, about = "", people = emptyList(), person = null, messages = emptyList()) }
        list()
    }

    /** What [release] does, on the calling thread: for the worker's own last task. */
    fun closeNow() = closeEngine()

    /** Takes the problem off the screen. */
    fun dismiss() = current.update { it.copy(problem = null) }

    /** What is to be kept if the process ends: of the messages the last ones, for Android keeps less than a megabyte. */
    fun remember() = state.value.let { Remembered(it.bundle, it.person, it.messages.takeLast(KEPT_MESSAGES)) }

    /** Goes on where an ended process was. */
    fun restore(kept: Remembered) {
        current.update { it.copy(messages = kept.messages) }
        val name = kept.bundle ?: return
        open(name).invokeOnCompletion { if (kept.person != null && state.value.bundle == name) choose(kept.person) }
    }

    private fun answering(text: String, people: () -> List<String?>): Job {
        if (text.isBlank()) return Job().apply { complete() }
        stopping = false
        return working("Answering", answering = true) {
            current.update { it.copy(messages = it.messages + Message(mine = true, text = text)) }
            val before = state.value.person
            try {
                people().forEach { person -> if (!stopping) answer(text, person) }
            } finally {
                engine?.useAdapter(before)
            }
        }
    }

    private fun answer(text: String, person: String?) {
        val engine = loaded()
        val manifest = requireNotNull(manifest)
        engine.useAdapter(person)
        current.update { it.copy(messages = it.messages + Message(mine = false, text = "", person = person)) }
        val started = System.nanoTime()
        val limit = manifest.task?.maxNewTokens ?: USUAL_LENGTH
        val finish = engine.generate(manifest.prompt(text), limit) { piece ->
            changeLast { last ->
                val first = last.firstSeconds ?: ((System.nanoTime() - started) / 1e9)
                last.copy(text = last.text + piece, firstSeconds = first)
            }
        }
        changeLast { last ->
            val ended = when (finish) {
                Finish.STOP_TOKEN -> null
                Finish.LENGTH -> "cut at $limit tokens"
                Finish.STOPPED -> "stopped"
            }
            last.copy(ended = ended)
        }
    }

    /** The engine; after [release] it is loaded again, with the person that was chosen. */
    private fun loaded(): ChatEngine {
        engine?.let { return it }
        val found = folder ?: throw EngineException("Choose a bundle first")
        return openChat(found, requireNotNull(manifest)).also {
            engine = it
            it.useAdapter(state.value.person)
        }
    }

    private fun closeEngine() {
        val open = engine ?: return
        engine = null
        open.close()
    }

    private fun list() {
        val choices = shelf.entries().map { entry ->
            Choice(entry.folder.name, entry.manifest?.let(::about).orEmpty(), entry.problem)
        }
        current.update { it.copy(choices = choices) }
    }

    /** One piece of work at a time; whatever goes wrong is on the screen as one sentence. */
    private fun working(label: String, answering: Boolean = false, action: () -> Unit): Job = scope.launch(worker) {
        current.update { it.copy(work = Work(label, answering = answering), problem = null) }
        try {
            action()
        } catch (problem: CancellationException) {
            throw problem
        } catch (problem: IOException) { // a BundleException too
            tell(problem.message)
        } catch (problem: EngineException) {
            tell(problem.message)
        } catch (problem: OutOfMemoryError) {
            closeEngine()
            tell("There is not enough memory for this bundle. Export a smaller preset, or close other apps.")
        } catch (problem: LinkageError) {
            tell("The runtime's library is not in this app, or not for this phone ($problem)")
        } finally {
            current.update { it.copy(work = null) }
        }
    }

    private fun tell(problem: String?) = current.update { it.copy(problem = problem ?: "Something went wrong") }

    private fun progress(label: String, fraction: Float?) = current.update { it.copy(work = Work(label, fraction)) }

    private fun changeLast(change: (Message) -> Message) =
        current.update { it.copy(messages = it.messages.dropLast(1) + change(it.messages.last())) }

    companion object {
        const val USUAL_LENGTH = 128
        const val KEPT_MESSAGES = 100

        /** A bundle in one line. */
        fun about(manifest: Manifest): String {
            val size = "%.0f MB".format(java.util.Locale.ROOT, manifest.totalBytes / 1e6)
            return "${manifest.name}, ${manifest.precision.name}, $size, ${manifest.runtime.name}"
        }
    }
}
