package org.edgeplm.bundle

import com.google.gson.Gson
import com.google.gson.JsonElement
import com.google.gson.JsonIOException
import com.google.gson.JsonSyntaxException
import com.google.gson.stream.JsonReader
import com.google.gson.stream.JsonToken
import java.io.IOException
import java.io.StringReader
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

/** Text that is not JSON; the message says where. */
class NotJson(message: String) : Exception(message)

/** JSON by the letter: Gson's usual entry points accept comments, single quotes and trailing text. */
object Json {
    private val elements = Gson().getAdapter(JsonElement::class.java)

    /** The one value in `bytes`, UTF-8. Throws [NotJson]. */
    fun parse(bytes: ByteArray): JsonElement = reading(bytes) { elements.read(it) }

    /** The names of all members at any depth, also where one hides another of the same name. */
    fun names(bytes: ByteArray): Set<String> = reading(bytes) { reader ->
        val names = mutableSetOf<String>()
        var depth = 0
        do {
            when (reader.peek()) {
                JsonToken.BEGIN_OBJECT -> reader.beginObject().also { depth++ }
                JsonToken.END_OBJECT -> reader.endObject().also { depth-- }
                JsonToken.BEGIN_ARRAY -> reader.beginArray().also { depth++ }
                JsonToken.END_ARRAY -> reader.endArray().also { depth-- }
                JsonToken.NAME -> names += reader.nextName()
                else -> reader.skipValue()
            }
        } while (depth > 0)
        names
    }

    private fun <T> reading(bytes: ByteArray, read: (JsonReader) -> T): T {
        try {
            val reader = JsonReader(StringReader(decoded(bytes)))
            val value = read(reader)
            if (reader.peek() != JsonToken.END_DOCUMENT) throw NotJson("text after the end")
            return value
        } catch (error: CharacterCodingException) {
            throw NotJson("not UTF-8")
        } catch (error: IOException) {
            throw NotJson(firstLine(error))
        } catch (error: JsonSyntaxException) {
            throw NotJson(firstLine(error))
        } catch (error: JsonIOException) {
            throw NotJson(firstLine(error))
        } catch (error: NumberFormatException) {
            throw NotJson(firstLine(error))
        } catch (error: IllegalStateException) {
            throw NotJson(firstLine(error))
        }
    }

    private fun decoded(bytes: ByteArray): String = Charsets.UTF_8.newDecoder()
        .onMalformedInput(CodingErrorAction.REPORT)
        .onUnmappableCharacter(CodingErrorAction.REPORT)
        .decode(ByteBuffer.wrap(bytes))
        .toString()

    private fun firstLine(error: Exception) =
        (error.message ?: error.javaClass.simpleName).lineSequence().first().take(200)
}
