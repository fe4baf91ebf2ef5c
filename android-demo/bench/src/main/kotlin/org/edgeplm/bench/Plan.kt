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
 * cool, quiet phone. [sustainedMinutes] above 0 adds a decode without a pause, for so long at most. [scoreIds] are
 * texts whose likelihood is computed.
 *
 * [cores], [countInstructions] and [golden] are read and then refused by the [Agent]: an app does none of them. Where power
 * can be read, each window that meters it lasts [energySeconds]; an app cannot read it.
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
    val cores: Cores? = null,
    val energySeconds: Double = 5.0,
    val sustainedMinutes: Double = 0.0,
    val scoreIds: List<List<Int>> = emptyList(),
    val countInstructions: Boolean = false,
    val golden: Boolean = false,
) {
    /** Cores to bind to: their [numbers], or with null all but the slowest cluster ("fast"). */
    data class Cores(val numbers: List<Int>?)

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
            "prompts_ids", "max_new_tokens", "stop_ids", "settle_seconds", "cores", "energy_seconds",
            "sustained_minutes", "score_ids", "count_instructions",
            "golden",
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
            settleSeconds = field("settle_seconds", "seconds from 0", usual.settleSeconds, ::amount),
            cores = field("cores", "\"fast\", core numbers, or none", null, orNone(::cores)),
            energySeconds = field("energy_seconds", "seconds from 0", usual.energySeconds, ::amount),
            sustainedMinutes = field("sustained_minutes", "minutes from 0", usual.sustainedMinutes, ::amount),
            scoreIds = field("score_ids", "lists of two or more token ids", usual.scoreIds) { all ->
                list(all) { ids -> someCounts(ids)?.takeIf { it.size > 1 } }
            },
            countInstructions = field("count_instructions", "true or false", usual.countInstructions, ::truth),
            golden = field("golden", "true or false", usual.golden, ::truth),
        )
        if (wrong.isEmpty()) contradiction(plan)?.let { wrong += it }
        if (wrong.isNotEmpty()) throw PlanException(wrong.joinToString("; "))
        return plan
    }

    private fun contradiction(plan: Plan): String? {
        val asked = plan.repeats > 0 || plan.promptsIds.isNotEmpty() || plan.scoreIds.isNotEmpty() ||
            plan.sustainedMinutes > 0 || plan.golden
        return when {
            plan.countInstructions && (asked || plan.threads != 1) ->
                "count_instructions: a run that counts has one thread and does nothing else"
            !plan.countInstructions && !asked -> "nothing to do: repeats is 0 and prompts_ids is empty"
            else -> null
        }
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

    private fun amount(value: JsonElement): Double? =
        (value as? JsonPrimitive)?.takeIf { it.isNumber }?.asString?.toDoubleOrNull()?.takeIf { it >= 0 && !it.isInfinite() }

    private fun truth(value: JsonElement): Boolean? = (value as? JsonPrimitive)?.takeIf { it.isBoolean }?.asBoolean

    private fun cores(value: JsonElement): Plan.Cores? =
        if (name(value) == "fast") Plan.Cores(null) else someCounts(value)?.let { Plan.Cores(it) }

    private fun someCounts(value: JsonElement): List<Int>? = list(value, ::count)?.takeIf { it.isNotEmpty() }

    private fun <T : Any> list(value: JsonElement, read: (JsonElement) -> T?): List<T>? {
        if (!value.isJsonArray) return null
        val items = value.asJsonArray.map(read)
        return if (null in items) null else items.filterNotNull()
    }
}
