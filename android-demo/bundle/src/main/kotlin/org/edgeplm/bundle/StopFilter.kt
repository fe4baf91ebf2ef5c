package org.edgeplm.bundle

/**
 * Ends a stream of text before the first of [stops], however the pieces fall.
 *
 * For runtimes that hand out text and let the stop token's own text through. What could be the beginning of a
 * stop text is kept back until it is clear.
 */
class StopFilter(stops: List<String>) {
    private val stops = stops.filter { it.isNotEmpty() }
    private val held = StringBuilder()

    /** Whether a stop text has come; nothing is shown after it. */
    var stopped = false
        private set

    /** Takes the next piece; returns what can be shown now. */
    fun push(piece: String): String {
        if (stopped) return ""
        held.append(piece)
        // The stop that is complete first ends the answer, as it would token by token.
        val end = stops.mapNotNull { stop -> held.indexOf(stop).takeIf { it >= 0 }?.let { it + stop.length to it } }
            .minWithOrNull(compareBy({ it.first }, { it.second }))
        if (end != null) {
            stopped = true
            return held.substring(0, end.second).also { held.setLength(0) }
        }
        val clear = held.length - longestBeginning()
        return held.substring(0, clear).also { held.delete(0, clear) }
    }

    /** The stream has ended by itself: what was kept back is text after all. */
    fun end(): String = held.toString().also { held.setLength(0) }

    private fun longestBeginning(): Int = stops.maxOfOrNull { stop ->
        (minOf(stop.length - 1, held.length) downTo 1).firstOrNull { held.endsWith(stop.substring(0, it)) } ?: 0
    } ?: 0
}
