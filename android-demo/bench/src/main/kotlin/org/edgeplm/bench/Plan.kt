package org.edgeplm.bench

import com.google.gson.JsonElement
import com.google.gson.JsonObject
import com.google.gson.JsonPrimitive
import org.edgeplm.bundle.Json
import org.edgeplm.bundle.NotJson

/** A plan that cannot be carried out; the message names the field, what was found and what is accepted. */
class PlanException(message: String) : Exception("plan of the run: $message")

/**
 * One run of the agent: what `runtimes/plan.py` sends, field for field.
 *
 * The latency part runs when [repeats] is above 0, the quality part when [promptsIds] has prompts. [depths] are
 * the tokens already in the KV cache before the timed decode steps. [settleSeconds] is the longest wait for a
 * cool, quiet phone.
 */
data class Plan(
    val bundle: String,
    val threads: Int? = null,
    val adapter: String? = null,
    val promptTokens: Int = 128,
    val decodeTokens: Int = 64,
    val repeats: Int = 5,
    val warmup: Int = 1,
    val depths: List<Int> = listOf(0, 256),
    val promptsIds: List<List<Int>> = emptyList(),
    val maxNewTokens: Int = 64,
    val stopIds: List<Int> = emptyList(),
    val settleSeconds: Double = 0.0,
) {
    companion object {
        /** The plan in a JSON text. Throws [PlanException] that lists everything that is wrong. */
        fun parse(text: String): Plan = try {
            read(Json.parse(text.toByteArray()))
        } catch (error: NotJson) {
            throw PlanException("not JSON (${error.message})")
        }

        /** The plan in a JSON value. A field that this version does not know may only be null. */
        fun read(document: JsonElement): Plan {
            val members = document as? JsonObject ?: throw PlanException("not a JSON object")
            val unknown = members.entrySet().filter { it.key !in KNOWN && !it.value.isJsonNull }.map { it.key }.sorted()
            if (unknown.isNotEmpty()) {
                throw PlanException("unknown field ${unknown.joinToString()}; accepted: ${KNOWN.sorted().joinToString()}")
            }
            if (!members.has("bundle")) throw PlanException("the field bundle is missing")
            return PlanReader(members).read()
        }

        private val KNOWN = setOf(
            "bundle", "threads", "adapter", "prompt_tokens", "decode_tokens", "repeats", "warmup", "depths",
            "prompts_ids", "max_new_tokens", "stop_ids", "settle_seconds",
        )
    }
}

/** Reads every field and keeps what is wrong with any of them. */
private class PlanReader(private val members: JsonObject) {
    private val wrong = mutableListOf<String>()

    fun read(): Plan {
        val usual = Plan("")
        val plan = Plan(
            bundle = field("bundle", "the path of a bundle folder", "", ::name),
            threads = field("threads", "a whole number from 1, or none", null, orNone(::positive)),
            adapter = field("adapter", "the name of an attached adapter, or none", null, orNone(::name)),
            promptTokens = field("prompt_tokens", "a whole number from 1", usual.promptTokens, ::positive),
            decodeTokens = field("decode_tokens", "a whole number from 1", usual.decodeTokens, ::positive),
            repeats = field("repeats", "a whole number from 0", usual.repeats, ::count),
            warmup = field("warmup", "a whole number from 0", usual.warmup, ::count),
            depths = field("depths", "one or more whole numbers from 0", usual.depths, ::someCounts),
            promptsIds = field("prompts_ids", "lists of one or more token ids", usual.promptsIds) {
                list(it, ::someCounts)
            },
            maxNewTokens = field("max_new_tokens", "a whole number from 1", usual.maxNewTokens, ::positive),
            stopIds = field("stop_ids", "a list of token ids", usual.stopIds) { list(it, ::count) },
            settleSeconds = field("settle_seconds", "seconds from 0", usual.settleSeconds, ::seconds),
        )
        if (wrong.isEmpty() && plan.repeats == 0 && plan.promptsIds.isEmpty()) {
            wrong += "nothing to do: repeats is 0 and prompts_ids is empty"
        }
        if (wrong.isNotEmpty()) throw PlanException(wrong.joinToString("; "))
        return plan
    }

    private fun <T> field(name: String, accepted: String, default: T, read: (JsonElement) -> T?): T {
        val value = members.get(name) ?: return default
        if (value.isJsonNull && default == null) return default
        return read(value) ?: default.also { wrong += "$name: found $value, accepted: $accepted" }
    }

    private fun <T> orNone(read: (JsonElement) -> T?): (JsonElement) -> T? = read

    private fun name(value: JsonElement) =
        (value as? JsonPrimitive)?.takeIf { it.isString }?.asString?.takeIf { it.isNotEmpty() }

    private fun count(value: JsonElement): Int? =
        (value as? JsonPrimitive)?.takeIf { it.isNumber }?.asString?.toIntOrNull()?.takeIf { it >= 0 }

    private fun positive(value: JsonElement): Int? = count(value)?.takeIf { it > 0 }

    private fun seconds(value: JsonElement): Double? =
        (value as? JsonPrimitive)?.takeIf { it.isNumber }?.asString?.toDoubleOrNull()?.takeIf { it >= 0 && !it.isInfinite() }

    private fun someCounts(value: JsonElement): List<Int>? = list(value, ::count)?.takeIf { it.isNotEmpty() }

    private fun <T : Any> list(value: JsonElement, read: (JsonElement) -> T?): List<T>? {
        if (!value.isJsonArray) return null
        val items = value.asJsonArray.map(read)
        return if (null in items) null else items.filterNotNull()
    }
}
