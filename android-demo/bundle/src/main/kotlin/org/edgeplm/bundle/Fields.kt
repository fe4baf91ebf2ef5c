package org.edgeplm.bundle

import com.google.gson.JsonElement
import com.google.gson.JsonNull
import com.google.gson.JsonObject
import com.google.gson.JsonPrimitive

/** The members of a JSON object, each checked for its kind; an error names the field that is wrong. */
internal class Fields(private val members: JsonObject, private val where: String, private val name: String = "") {
    fun text(field: String): String = textOf(needed(field), full(field))

    fun textOrNull(field: String, needed: Boolean = false): String? =
        (if (needed) needed(field) else optional(field)).orNull()?.let { textOf(it, full(field)) }

    fun whole(field: String): Long = wholeOf(needed(field), full(field))

    fun wholeOrNull(field: String): Long? = optional(field).orNull()?.let { wholeOf(it, full(field)) }

    fun number(field: String): Double = numberOf(needed(field), full(field))

    fun numberOr(field: String, default: Double): Double =
        optional(field)?.let { numberOf(it, full(field)) } ?: default

    fun wholeOr(field: String, default: Long): Long = optional(field)?.let { wholeOf(it, full(field)) } ?: default

    fun flagOr(field: String, default: Boolean): Boolean {
        val value = optional(field) ?: return default
        if (value is JsonPrimitive && value.isBoolean) return value.asBoolean
        throw wrong(full(field), value, "bool")
    }

    fun fields(field: String): Fields = fieldsOf(needed(field), full(field))

    fun fieldsOrNull(field: String): Fields? = optional(field).orNull()?.let { fieldsOf(it, full(field)) }

    fun objectOrNull(field: String): JsonObject? =
        optional(field).orNull()?.let { it as? JsonObject ?: throw wrong(full(field), it, "dict") }

    fun texts(field: String, needed: Boolean = true): List<String> = items(field, needed, ::textOf)

    fun wholes(field: String): List<Long> = items(field, true, ::wholeOf)

    fun numbers(field: String): List<Double> = items(field, true, ::numberOf)

    fun <T> list(field: String, needed: Boolean, read: (Fields) -> T): List<T> =
        items(field, needed) { value, name -> read(fieldsOf(value, name)) }

    fun textsByName(field: String): Map<String, String> {
        val value = optional(field) ?: return emptyMap()
        val found = value as? JsonObject ?: throw wrong(full(field), value, "dict")
        return found.entrySet().associate { (key, text) -> key to textOf(text, "${full(field)}.$key") }
    }

    private fun <T> items(field: String, needed: Boolean, read: (JsonElement, String) -> T): List<T> {
        val value = (if (needed) needed(field) else optional(field)) ?: return emptyList()
        if (!value.isJsonArray) throw wrong(full(field), value, "list")
        return value.asJsonArray.mapIndexed { index, item -> read(item, "${full(field)}[$index]") }
    }

    private fun full(field: String) = if (name.isEmpty()) field else "$name.$field"

    private fun optional(field: String): JsonElement? = members.get(field)

    private fun needed(field: String): JsonElement =
        members.get(field) ?: throw BundleException("field ${full(field)} is missing", where, AGAIN)

    private fun JsonElement?.orNull(): JsonElement? = if (this is JsonNull) null else this

    private fun fieldsOf(value: JsonElement, name: String): Fields =
        Fields(value as? JsonObject ?: throw wrong(name, value, "dict"), where, name)

    private fun textOf(value: JsonElement, name: String): String {
        if (value is JsonPrimitive && value.isString) return value.asString
        throw wrong(name, value, "str")
    }

    private fun wholeOf(value: JsonElement, name: String): Long {
        if (value is JsonPrimitive && value.isNumber) value.asString.toLongOrNull()?.let { return it }
        throw wrong(name, value, "int")
    }

    private fun numberOf(value: JsonElement, name: String): Double {
        val number = if (value is JsonPrimitive && value.isNumber) value.asString.toDoubleOrNull() else null
        if (number != null && !number.isNaN() && !number.isInfinite()) return number
        throw wrong(name, value, "a number")
    }

    private fun wrong(name: String, value: JsonElement, expected: String) =
        BundleException("field $name is ${value.toString().take(60)}, expected $expected", where, AGAIN)

    companion object {
        const val AGAIN = "Export the bundle again"
    }
}
