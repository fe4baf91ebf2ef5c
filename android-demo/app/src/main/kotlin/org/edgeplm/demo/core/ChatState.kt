package org.edgeplm.demo.core

import com.google.gson.Gson
import com.google.gson.JsonSyntaxException
import com.google.gson.reflect.TypeToken

/** One thing said. [person] is the adapter that answered; null for the base, or for the user's own. */
data class Message(
    val mine: Boolean,
    val text: String,
    val person: String? = null,
    val ended: String? = null,
    val firstSeconds: Double? = null,
)

/** A bundle to choose; [problem] says why it cannot be. */
data class Choice(val name: String, val detail: String, val problem: String?)

/** Work under way: what, and how much of it is done (0 to 1; null if that cannot be told). */
data class Work(val label: String, val fraction: Float? = null, val answering: Boolean = false)

/** Everything that the screen shows. */
data class ChatState(
    val choices: List<Choice> = emptyList(),
    val bundle: String? = null,
    val about: String = "",
    val people: List<String> = emptyList(),
    val person: String? = null,
    val messages: List<Message> = emptyList(),
    val work: Work? = null,
    val problem: String? = null,
) {
    val canSend get() = bundle != null && work == null

    /** Whether there is anybody to switch to. */
    val hasPeople get() = people.isNotEmpty()
}

/** What outlives the process: Android may end an app in the background and start it again where it was. */
data class Remembered(val bundle: String?, val person: String?, val messages: List<Message>) {
    fun toJson(): String = Gson().toJson(this)

    companion object {
        /** What [toJson] wrote; null for anything else. */
        fun of(json: String?): Remembered? = try {
            json?.let { Gson().fromJson(it, object : TypeToken<Remembered>() {}.type) }
        } catch (_: JsonSyntaxException) {
            null
        }
    }
}
