package org.edgeplm.bundle

/**
 * What the chat template makes of one user message: [prefix], the message, [suffix].
 *
 * With [trim] the blanks at the message's ends go first. The exporter checked that this is the template's own
 * text, so no Jinja is needed here.
 */
data class ChatForm(val prefix: String, val suffix: String, val trim: Boolean) {
    /** The prompt's text, up to where the answer begins. Encode it without adding special tokens. */
    fun render(message: String): String = prefix + (if (trim) message.trim(::isBlank) else message) + suffix

    /** What Jinja's `trim` takes away, which is what Python calls white space. */
    private fun isBlank(char: Char) = char.isWhitespace() || char == '\u0085'
}

/**
 * The prompt for a user's text: the task's instruction around it, then the chat form.
 *
 * The adapter was trained on this wording and on one message, so no earlier turns go in.
 * Throws [BundleException] if the bundle has no chat form.
 */
fun Manifest.prompt(text: String): String {
    val form = chatForm ?: throw BundleException(
        "its chat template cannot be written as text around a message, or the bundle is older than that field",
        "manifest.json, chat_form",
        "Export the bundle again; if it is still null, render chat_template yourself",
    )
    return form.render(task?.prompt?.replace("{input}", text) ?: text)
}
