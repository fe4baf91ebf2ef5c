package org.edgeplm.bench

import org.edgeplm.bundle.TokenEngine
import kotlin.math.round

/**
 * The rate that is left once a phone is warm, as `runtimes/sustained.py` measures it: decode from an empty context
 * over and over, for [Plan.sustainedMinutes] at most, or until the rate settles.
 *
 * Every minute is a sample `sustained`; the sensors are read between minutes. At last a sample `sustained end` says
 * whether the rate settled. A minute lasts [minuteSeconds].
 */
internal class Sustained(
    private val plan: Plan,
    private val engine: TokenEngine,
    private val samples: Samples,
    private val machine: Machine,
    private val minuteSeconds: Double,
) {
    private val ids = plan.tokenIds(engine.vocabSize).copyOf(plan.decodeTokens + 1)

    fun run() {
        val rates = mutableListOf<Double>()
        val limit = maxOf(1.0, round(plan.sustainedMinutes))
        var before = machine.sensors()
        while (rates.size < limit && !settled(rates)) {
            val passes = minute()
            val after = machine.sensors()
            val seconds = passes.sum()
            val tokens = passes.size * plan.decodeTokens
            rates += tokens / seconds
            samples.emit(
                "sustained",
                mapOf(
                    "minute" to rates.size,
                    "tokens" to tokens,
                    "seconds" to seconds,
                    "passes" to passes,
                    "other_cores" to null, // Android hides from apps what other processes do
                    "celsius" to Machine.hottest(after),
                    "frequency_seconds" to Frequencies.between(before["time_in_state"], after["time_in_state"]),
                ) + CARRIED.associateWith { after[it] },
            )
            before = after
        }
        samples.emit("sustained end", mapOf("minutes" to rates.size, "settled" to settled(rates)))
    }

    /** Seconds of each pass over [ids] until a minute is over; the first token opens the context, untimed. */
    private fun minute(): List<Double> {
        val passes = mutableListOf<Double>()
        val began = System.nanoTime()
        while (passes.isEmpty() || Agent.secondsSince(began) < minuteSeconds) {
            engine.prefill(ids.copyOf(1))
            val started = System.nanoTime()
            for (index in 1 until ids.size) engine.decode(ids[index])
            passes += Agent.secondsSince(started)
        }
        return passes
    }

    companion object {
        private const val SETTLED_MINUTES = 3
        private const val SETTLED_SPREAD = 0.03
        private val CARRIED = listOf("thermal_status", "throttle_flags", "throttle_events", "frequency_mhz", "battery")

        /** Whether the last minutes' rates lie within [SETTLED_SPREAD] of their mean. */
        fun settled(rates: List<Double>): Boolean {
            val last = rates.takeLast(SETTLED_MINUTES)
            return last.size == SETTLED_MINUTES && last.max() - last.min() <= SETTLED_SPREAD * last.average()
        }
    }
}
