package org.edgeplm.bundle

import com.google.gson.JsonElement
import com.google.gson.JsonObject
import com.google.gson.JsonPrimitive

/** One file of the bundle: POSIX path below the bundle's folder, size in bytes, hex sha256. */
data class BundleFile(val path: String, val bytes: Long, val sha256: String)

/** The model that was personalised. */
data class BaseModel(
    val source: String,
    val sha256: String,
    val architecture: String,
    val parameters: Long,
    val licence: String,
)

/** The runtime that the bundle was made for, and the versions that made it. */
data class RuntimeInfo(val name: String, val version: String, val madeWith: Map<String, String>)

/** How the weights are stored. */
data class Precision(val name: String, val scheme: String, val bitsPerWeight: Double, val preset: String?)

/** Token ids that a generation loop needs; an answer ends at any of [stop], whose texts are [stopTexts]. */
data class Tokens(
    val vocabSize: Int,
    val stop: List<Int>,
    val bos: Int?,
    val pad: Int?,
    val stopTexts: List<String>,
)

/** A person's adapter: `merged` into the weights, or `attached` in a [file] of its own. */
data class Adapter(
    val name: String,
    val kind: String,
    val sha256: String,
    val rank: Int,
    val alpha: Double,
    val targets: List<String>,
    val file: String?,
)

/** Where the personalisation came from: counts and hashes only. */
data class Provenance(
    val realExamples: Long,
    val syntheticExamples: Long,
    val syntheticShare: Double,
    val teacher: String?,
    val profileSha256: String?,
)

/** A neutral prompt and what the artifact answered on the machine that made it. */
data class GoldenCheck(
    val prompt: List<Int>,
    val topTokens: List<Int>,
    val topLogits: List<Double>,
    val continuation: List<Int>,
)

/** What the person's adapter was trained for; fields that an app needs, as far as the task has them. */
data class Task(val name: String?, val prompt: String?, val labels: List<String>, val maxNewTokens: Int?)

/**
 * `manifest.json`, the contract between EdgePLM's exporters and apps; docs/manifest.md has it field by field.
 *
 * Fields that this reader does not know are ignored: later minor versions may add some.
 */
data class Manifest(
    val schemaVersion: Int,
    val name: String,
    val created: String,
    val edgeplmVersion: String,
    val baseModel: BaseModel,
    val runtime: RuntimeInfo,
    val precision: Precision,
    val contextLength: Int,
    val tokens: Tokens,
    val chatTemplate: String?,
    val files: List<BundleFile>,
    val adapters: List<Adapter>,
    val task: Task?,
    val provenance: Provenance?,
    val golden: List<GoldenCheck>,
    val chatForm: ChatForm?,
) {
    /** Size of all listed files in bytes. */
    val totalBytes: Long get() = files.sumOf { it.bytes }

    /** The adapters that can be switched at run time. */
    val attached: List<Adapter> get() = adapters.filter { it.file != null }

    companion object {
        const val SCHEMA_VERSION = 1

        /** The manifest in a JSON object. Throws [BundleException] with the field that is wrong. */
        fun read(members: JsonObject, where: String): Manifest {
            val version = members.get("schema_version")
            if (!isVersion(version)) {
                throw BundleException(
                    "schema_version is ${version ?: "missing"}, this app reads $SCHEMA_VERSION",
                    where,
                    "Export the bundle again, or use the app of the EdgePLM that made it",
                )
            }
            return manifest(Fields(members, where))
        }

        private fun isVersion(value: JsonElement?) =
            value is JsonPrimitive && value.isNumber && value.asString == SCHEMA_VERSION.toString()
    }
}

private fun manifest(fields: Fields) = Manifest(
    schemaVersion = fields.whole("schema_version").toInt(),
    name = fields.text("name"),
    created = fields.text("created"),
    edgeplmVersion = fields.text("edgeplm_version"),
    baseModel = fields.fields("base_model").let {
        BaseModel(
            it.text("source"), it.text("sha256"), it.text("architecture"), it.whole("parameters"), it.text("licence"),
        )
    },
    runtime = fields.fields("runtime").let {
        RuntimeInfo(it.text("name"), it.text("version"), it.textsByName("made_with"))
    },
    precision = fields.fields("precision").let {
        Precision(it.text("name"), it.text("scheme"), it.number("bits_per_weight"), it.textOrNull("preset"))
    },
    contextLength = fields.whole("context_length").toInt(),
    tokens = fields.fields("tokens").let {
        Tokens(
            it.whole("vocab_size").toInt(),
            it.wholes("stop").map(Long::toInt),
            it.wholeOrNull("bos")?.toInt(),
            it.wholeOrNull("pad")?.toInt(),
            it.texts("stop_texts", needed = false),
        )
    },
    chatTemplate = fields.textOrNull("chat_template", needed = true),
    files = fields.list("files", needed = true) { BundleFile(it.text("path"), it.whole("bytes"), it.text("sha256")) },
    adapters = fields.list("adapters", needed = false) {
        Adapter(
            it.text("name"), it.text("kind"), it.text("sha256"), it.whole("rank").toInt(), it.number("alpha"),
            it.texts("targets"), it.textOrNull("file"),
        )
    },
    task = fields.objectOrNull("task")?.let(::task),
    provenance = fields.fieldsOrNull("provenance")?.let {
        Provenance(
            it.wholeOr("real_examples", 0),
            it.wholeOr("synthetic_examples", 0),
            it.numberOr("synthetic_share", 0.0),
            it.textOrNull("teacher"),
            it.textOrNull("profile_sha256"),
        )
    },
    golden = fields.list("golden", needed = false) {
        GoldenCheck(
            it.wholes("prompt").map(Long::toInt),
            it.wholes("top_tokens").map(Long::toInt),
            it.numbers("top_logits"),
            it.wholes("continuation").map(Long::toInt),
        )
    },
    chatForm = fields.fieldsOrNull("chat_form")?.let {
        ChatForm(it.text("prefix"), it.text("suffix"), it.flagOr("trim", false))
    },
)

/** A task is the user's own; what is not as expected counts as absent. */
private fun task(members: JsonObject): Task {
    fun primitive(field: String) = members.get(field) as? JsonPrimitive
    val labels = members.get("labels")?.takeIf { it.isJsonArray }?.asJsonArray.orEmpty()
    return Task(
        name = primitive("name")?.takeIf { it.isString }?.asString,
        prompt = primitive("prompt")?.takeIf { it.isString }?.asString,
        labels = labels.filterIsInstance<JsonPrimitive>().map { it.asString },
        maxNewTokens = primitive("max_new_tokens")?.takeIf { it.isNumber }?.asString?.toIntOrNull()?.takeIf { it > 0 },
    )
}

private fun com.google.gson.JsonArray?.orEmpty(): List<JsonElement> = this?.toList() ?: emptyList()
