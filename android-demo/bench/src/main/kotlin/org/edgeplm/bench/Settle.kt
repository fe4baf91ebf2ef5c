package org.edgeplm.bench

/** Waiting until the phone is cool enough to be measured: for a condition, with a timeout. */
class Settle(
    private val machine: Machine,
    private val pause: (Long) -> Unit = Thread::sleep,
    private val clock: () -> Double = { System.nanoTime() / 1e9 },
) {
    /**
     * Waits for [timeout] seconds at most. Returns the sample's fields: `seconds` waited, whether the condition was
     * `reached`, and what is being waited for. Other processes cannot be seen on Android.
     */
    fun wait(timeout: Double): Map<String, Any?> {
        val started = clock()
        var waitingFor = tooHot(machine.sensors())
        while (waitingFor != null && clock() - started < timeout) {
            pause(POLL_MS)
            waitingFor = tooHot(machine.sensors())
        }
        return mapOf("seconds" to clock() - started, "reached" to (waitingFor == null), "waiting_for" to waitingFor)
    }

    /**
     * Waits until the hottest sensor is back at [target] degrees Celsius (and [COOL_MARGIN]), for [timeout] seconds
     * at most. Returns the sample's fields.
     */
    fun cool(target: Double, timeout: Double): Map<String, Any?> {
        val started = clock()
        var celsius = Machine.hottest(machine.sensors())
        while (celsius != null && celsius > target + COOL_MARGIN && clock() - started < timeout) {
            pause(POLL_MS)
            celsius = Machine.hottest(machine.sensors())
        }
        val reached = celsius == null || celsius <= target + COOL_MARGIN
        return mapOf("seconds" to clock() - started, "reached" to reached, "celsius" to celsius, "target" to target)
    }

    private fun tooHot(reading: Map<String, Any?>): String? {
        val status = reading["thermal_status"] as? Int
        if (status != null && status >= STATUS_LIMIT) return "thermal status $status, limit $STATUS_LIMIT"
        return (reading["temperatures"] as? Map<*, *>).orEmpty().entries.firstNotNullOfOrNull { (name, zone) ->
            val celsius = (zone as Map<*, *>)["celsius"] as Double
            val limit = zone["limit"] as Double? ?: USUAL_LIMIT
            if (celsius >= limit) "%s at %.0f °C, limit %.0f °C".format(name, celsius, limit) else null
        }
    }

    private companion object {
        const val POLL_MS = 1000L
        const val COOL_MARGIN = 2.0
        const val USUAL_LIMIT = 80.0
        const val STATUS_LIMIT = 2 // PowerManager.THERMAL_STATUS_MODERATE: the system throttles already
    }
}
