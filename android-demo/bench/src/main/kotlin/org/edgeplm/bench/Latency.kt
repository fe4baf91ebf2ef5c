package org.edgeplm.bench

import org.edgeplm.bundle.TokenEngine

/**
 * The latency part: warm-up and repeats of one prefill and, at each depth, single decode steps. Between repeats it
 * waits for the temperature at which the first one started.
 */
internal class Latency(
    private val plan: Plan,
    private val engine: TokenEngine,
    private val samples: Samples,
    private val machine: Machine,
) {
    private val ids = plan.tokenIds(engine.vocabSize)

    fun run() {
        var startedAt: Double? = null
        for (number in -plan.warmup until plan.repeats) {
            val warmup = number < 0
            val place = mapOf("repeat" to number, "warmup" to warmup)
            if (number == 0) {
                val start = machine.sensors()
                startedAt = Machine.hottest(start)
                samples.emit("sensors", mapOf("when" to "start") + start)
            } else if (number > 0 && plan.settleSeconds > 0 && startedAt != null) {
                samples.begin("cool down before repeat ${number + 1}")
                samples.emit("cool", mapOf("repeat" to number) + Settle(machine).cool(startedAt, plan.settleSeconds))
            }
            samples.begin(if (warmup) "warm-up" else "repeat ${number + 1} of ${plan.repeats}")
            val before = machine.timeInState()
            prefill(place)
            plan.depths.forEach { decode(place + ("depth" to it), it) }
            val spent = Frequencies.between(before, machine.timeInState())
            samples.emit("sensors", mapOf("when" to "during", "frequency_seconds" to spent) + place + machine.sensors())
        }
    }

    private fun prefill(place: Map<String, Any?>) {
        val prompt = ids.copyOf(plan.promptTokens)
        var started = System.nanoTime()
        engine.prefill(prompt)
        val seconds = Agent.secondsSince(started)
        started = System.nanoTime()
        engine.pick()
        val sampling = Agent.secondsSince(started)
        samples.emit(
            "prefill",
            place + mapOf(
                "tokens" to prompt.size,
                "seconds" to seconds,
                "sampling_seconds" to sampling,
                "ttft" to seconds + sampling,
            ),
        )
    }

    private fun decode(place: Map<String, Any?>, depth: Int) {
        val cached = maxOf(1, depth)
        engine.prefill(ids.copyOf(cached))
        val seconds = mutableListOf<Double>()
        val sampling = mutableListOf<Double>()
        for (token in ids.slice(cached until cached + plan.decodeTokens)) {
            val started = System.nanoTime()
            engine.decode(token)
            val decoded = System.nanoTime()
            seconds += (decoded - started) / 1e9
            if (engine.picksFreely) {
                engine.pick()
                sampling += Agent.secondsSince(decoded)
            }
        }
        samples.emit(
            "decode",
            place + mapOf(
                "tokens" to seconds.size,
                "seconds" to seconds,
                "sampling_seconds" to sampling.takeIf { engine.picksFreely },
            ),
        )
    }
}
