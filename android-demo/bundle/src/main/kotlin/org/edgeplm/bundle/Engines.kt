package org.edgeplm.bundle

/** A runtime that cannot do what it was asked: load a bundle, take a prompt, switch. The message is for people. */
class EngineException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** What every loaded bundle can do; implementations are in the module `engine`. */
interface Engine : AutoCloseable {
    /** The runtime as the manifest names it. */
    val name: String

    /** The runtime's version; "unknown" where it does not tell. */
    val version: String

    /** Names that [useAdapter] takes. */
    val adapters: List<String>

    /** Answer as the person whose adapter is [name], or with null as the base, from the next prompt on. */
    fun useAdapter(name: String?)

    /** Gives the model's memory back. */
    override fun close()
}

/** Why an answer ended. */
enum class Finish { STOP_TOKEN, LENGTH, STOPPED }

/**
 * Chats in text. Not for several threads at once, except [stop]; every call but [stop] may take seconds.
 */
interface ChatEngine : Engine {
    /**
     * Answers [prompt] (see [prompt]) with at most [maxNewTokens] tokens; [onText] gets the text as it comes,
     * on the calling thread. What came before is forgotten. Throws [EngineException].
     */
    fun generate(prompt: String, maxNewTokens: Int, onText: (String) -> Unit): Finish

    /** Ends the answer that is under way; from any thread. */
    fun stop()

    /** Forgets what was read and said. */
    fun reset()
}

/**
 * Works on token ids, for measuring: every run of a model does the same work. Greedy decoding only.
 */
interface TokenEngine : Engine {
    val contextLength: Int
    val vocabSize: Int

    /** Whether [pick] leaves everything as it is, so that it can be timed between two steps. */
    val picksFreely: Boolean

    /** The logits after the last step, one a token of the vocabulary; null where the runtime does not give them out. */
    val logits: FloatArray?

    /** Forgets what came before and reads [ids]. */
    fun prefill(ids: IntArray)

    /** Appends one token. */
    fun decode(token: Int)

    /** The most likely token after the last step. */
    fun pick(): Int

    /** Greedy continuation of [ids], without the stop token that ended it. */
    fun generate(ids: IntArray, maxNewTokens: Int, stop: Set<Int>): List<Int> {
        prefill(ids)
        val most = minOf(maxNewTokens, contextLength - ids.size)
        val answer = mutableListOf<Int>()
        while (answer.size < most) {
            val token = pick()
            if (token in stop) break
            answer += token
            if (answer.size < most) decode(token)
        }
        return answer
    }
}
