package org.edgeplm.bench

import org.edgeplm.bundle.BundleException
import org.edgeplm.bundle.EngineException
import org.edgeplm.bundle.TokenEngine

/** Opens the bundle of a plan with its number of threads. */
typealias OpenEngine = (Plan) -> TokenEngine

/**
 * Carries out a plan and writes the samples of `runtimes/agent.py`: same kinds, same fields, seconds.
 *
 * [versions] are the runtimes' and the app's own. Nothing is thrown for a fault that a sample can tell of.
 */
class Agent(
    private val machine: Machine,
    private val versions: Map<String, String>,
    private val openEngine: OpenEngine,
) {
    /** Runs the plan in [text], JSON. Returns whether it came to its end; if not, the last sample says why. */
    fun run(text: String, samples: Samples): Boolean = try {
        execute(Plan.parse(text), samples)
        true
    } catch (fault: PlanException) {
        fail(samples, fault.message)
    } catch (fault: BundleException) {
        fail(samples, fault.message)
    } catch (fault: EngineException) {
        fail(samples, fault.message)
    } catch (fault: OutOfMemoryError) {
        fail(samples, "out of memory: try a smaller bundle")
    } catch (fault: LinkageError) {
        fail(samples, "the runtime's library cannot be loaded ($fault)")
    } catch (fault: RuntimeException) { // a bug of ours or of the runtime: the host is told, not left to wait
        fail(samples, "${fault.javaClass.simpleName}: ${fault.message}")
    }

    private fun fail(samples: Samples, message: String?): Boolean {
        samples.emit("error", mapOf("step" to samples.step, "message" to message))
        return false
    }

    /** Does all that [plan] asks for; the second, warm load comes last, so it adds nothing to the peak memory. */
    fun execute(plan: Plan, samples: Samples) {
        hello(samples)
        if (plan.settleSeconds > 0) {
            samples.begin("settle")
            samples.emit("settle", Settle(machine).wait(plan.settleSeconds))
        }
        samples.begin("load")
        samples.emit("sensors", mapOf("when" to "before") + machine.sensors())
        samples.emit("memory", mapOf("when" to "before load") + machine.memory())
        loaded(plan, "cold", samples) { engine ->
            samples.emit("memory", mapOf("when" to "after load") + machine.memory())
            if (plan.repeats > 0) Latency(fitted(plan, engine.contextLength), engine, samples, machine).run()
            answers(plan, engine, samples)
            samples.emit("memory", mapOf("when" to "after run") + machine.memory())
        }
        if (plan.repeats > 0) {
            samples.begin("load again")
            loaded(plan, "warm", samples) {}
        }
        samples.emit("sensors", mapOf("when" to "after") + machine.sensors())
        samples.emit("done")
    }

    private fun hello(samples: Samples) = samples.emit(
        "hello",
        mapOf(
            "agent" to VERSION,
            "machine" to machine.facts(),
            "versions" to versions,
            "allowed_cores" to machine.cores(),
        ),
    )

    /** "cold" is the first load of this process and includes loading the runtime's library. */
    private fun loaded(plan: Plan, state: String, samples: Samples, use: (TokenEngine) -> Unit) {
        val started = System.nanoTime()
        openEngine(plan).use { engine ->
            engine.useAdapter(plan.adapter)
            samples.emit(
                "load",
                mapOf(
                    "state" to state,
                    "seconds" to secondsSince(started),
                    "runtime" to engine.name,
                    "runtime_version" to engine.version,
                    "context_length" to engine.contextLength,
                ),
            )
            use(engine)
        }
    }

    private fun answers(plan: Plan, engine: TokenEngine, samples: Samples) {
        plan.promptsIds.forEachIndexed { index, ids ->
            samples.begin("answer ${index + 1} of ${plan.promptsIds.size}")
            val started = System.nanoTime()
            val answer = engine.generate(ids.toIntArray(), plan.maxNewTokens, plan.stopIds.toSet())
            samples.emit("answer", mapOf("index" to index, "ids" to answer, "seconds" to secondsSince(started)))
        }
    }

    /** The plan with its depths capped to what the context length leaves room for. */
    private fun fitted(plan: Plan, contextLength: Int): Plan {
        val room = contextLength - plan.decodeTokens - 1
        if (room < 1 || plan.promptTokens >= contextLength) {
            throw PlanException(
                "${plan.promptTokens} prompt tokens and ${plan.decodeTokens} decode tokens do not fit a context " +
                    "length of $contextLength. Ask for fewer tokens",
            )
        }
        return plan.copy(depths = plan.depths.map { minOf(it, room) }.distinct())
    }

    companion object {
        /** Of the samples' format, as `runtimes/agent.py` counts it. */
        const val VERSION = 1

        internal fun secondsSince(started: Long) = (System.nanoTime() - started) / 1e9
    }
}

/** The latency part: warm-up and repeats of one prefill and, at each depth, single decode steps. */
private class Latency(
    private val plan: Plan,
    private val engine: TokenEngine,
    private val samples: Samples,
    private val machine: Machine,
) {
    private val ids = TokenIds.of(
        engine.vocabSize,
        maxOf(plan.promptTokens, plan.depths.max() + plan.decodeTokens + 1),
    )

    fun run() {
        for (number in -plan.warmup until plan.repeats) {
            val warmup = number < 0
            val place = mapOf("repeat" to number, "warmup" to warmup)
            if (number == 0) samples.emit("sensors", mapOf("when" to "start") + machine.sensors())
            samples.begin(if (warmup) "warm-up" else "repeat ${number + 1} of ${plan.repeats}")
            prefill(place)
            plan.depths.forEach { decode(place + ("depth" to it), it) }
            samples.emit("sensors", mapOf("when" to "during") + place + machine.sensors())
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
