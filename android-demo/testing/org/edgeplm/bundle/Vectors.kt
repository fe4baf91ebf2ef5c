package org.edgeplm.bundle

import com.google.gson.JsonArray
import com.google.gson.JsonElement
import com.google.gson.JsonObject
import java.io.File
import java.nio.file.Files

/** The vectors that Python's tests use too: the folder tests/vectors of the repository. */
object Vectors {
    private val folder = generateSequence(File("").absoluteFile) { it.parentFile }
        .map { File(it, "tests/vectors") }.first { it.isDirectory }

    val bundle = File(folder, "bundle")

    fun cases(name: String): List<JsonObject> = Json.parse(File(folder, name).readBytes()).asJsonArray.map { it.asJsonObject }

    /** A copy of [source] in a folder that goes when the test process ends. */
    fun copy(source: File): File {
        val copy = File(Files.createTempDirectory("edgeplm").toFile(), "bundle")
        Runtime.getRuntime().addShutdownHook(Thread { copy.parentFile.deleteRecursively() })
        source.copyRecursively(copy)
        return copy
    }

    /** Does to [bundle] what a vector of manifest.json says. */
    fun damage(bundle: File, case: JsonObject) {
        val path = File(bundle, Bundles.MANIFEST)
        val manifest = Json.parse(path.readBytes()).asJsonObject
        case.getAsJsonObject("write")?.let {
            val file = File(bundle, it.get("file").asString).apply { writeText(it.get("text").asString) }
            val entry = manifest.getAsJsonArray("files").map { each -> each.asJsonObject }
                .first { each -> each.get("path").asString == it.get("file").asString }
            entry.addProperty("bytes", file.length())
            entry.addProperty("sha256", Bundles.sha256(file))
        }
        case.getAsJsonArray("edits")?.forEach { edit(manifest, it.asJsonObject) }
        path.writeText(case.get("raw")?.asString ?: escaped(manifest.toString()))
        case.get("delete")?.let { File(bundle, it.asString).delete() }
        case.getAsJsonObject("cut")?.let {
            val file = File(bundle, it.get("file").asString)
            file.writeBytes(file.readBytes().copyOf(it.get("to").asInt))
        }
        case.getAsJsonObject("flip")?.let {
            val file = File(bundle, it.get("file").asString)
            val at = it.get("at").asInt
            file.writeBytes(file.readBytes().apply { this[at] = (this[at].toInt() xor 1).toByte() })
        }
    }

    /** Half a surrogate pair has no bytes of its own. */
    private fun escaped(json: String) =
        json.map { if (it.code < 127) it.toString() else "\\u%04x".format(it.code) }.joinToString("")

    private fun edit(manifest: JsonObject, edit: JsonObject) {
        val keys = (edit.get("set") ?: edit.get("remove") ?: edit.get("append")).asJsonArray.toList()
        var place: JsonElement = manifest
        keys.dropLast(1).forEach { place = at(place, it) }
        val last = keys.last()
        when {
            edit.has("append") -> at(place, last).asJsonArray.add(edit.get("value"))
            edit.has("remove") -> place.asJsonObject.remove(last.asString)
            place is JsonArray -> place.asJsonArray.set(last.asInt, edit.get("to"))
            else -> place.asJsonObject.add(last.asString, edit.get("to"))
        }
    }

    private fun at(place: JsonElement, key: JsonElement): JsonElement =
        if (place is JsonArray) place.get(key.asInt) else place.asJsonObject.get(key.asString)
}
