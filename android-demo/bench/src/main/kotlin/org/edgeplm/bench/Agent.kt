package org.edgeplm.bench

import org.edgeplm.bundle.BundleException
import org.edgeplm.bundle.EngineException
import org.edgeplm.bundle.TokenEngine

/** Opens the bundle of a plan with its number of threads. */
typealias OpenEngine = (Plan) -> TokenEngine

/**
 * Carries out a plan and writes the samples of `runtimes/agent.py`: same kinds, same fields, seconds.
 *
 * [versions] are the runtimes' and the app's own, [bundleBytes] the size of a plan's bundle. A minute of the
 * sustained decode lasts [minuteSeconds]. Nothing is thrown for a fault that a sample can tell of.
 */
class Agent(
    private val machine: Machine,
    private val versions: Map<String, String>,
    private val bundleBytes: (Plan) -> Long = { 0 },
    private val minuteSeconds: Double = 60.0,
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

    /**
     * Does all that [plan] asks for. The second, warm load comes after all else, so it adds nothing to the peak
     * memory, and the sustained decode last, so that its heat reaches nothing else.
     */
    fun execute(plan: Plan, samples: Samples) {
        hello(samples)
        Preflight.refuse(plan)
        if (plan.settleSeconds > 0) {
            samples.begin("settle")
            samples.emit("settle", Settle(machine).wait(plan.settleSeconds))
        }
        samples.begin("preflight")
        Preflight.refuse(machine.sensors(), bundleBytes(plan))
        // An app has no source of power: what Android tells of the battery's current is too coarse to meter a window.
        if (plan.repeats > 0 && plan.energySeconds > 0) samples.emit("power", mapOf("source" to null))
        samples.begin("load")
        samples.emit("sensors", mapOf("when" to "before") + machine.sensors())
        samples.emit("memory", mapOf("when" to "before load") + machine.memory())
        loaded(plan, "cold", samples) { engine ->
            Preflight.refuse(plan, engine)
            samples.emit("memory", mapOf("when" to "after load") + machine.memory())
            if (plan.repeats > 0) Latency(fitted(plan, engine.contextLength), engine, samples, machine).run()
            Quality(plan, engine, samples).run()
            samples.emit("memory", mapOf("when" to "after run") + machine.memory())
        }
        if (plan.repeats > 0 || plan.sustainedMinutes > 0) {
            samples.begin("load again")
            loaded(plan, "warm", samples) { engine ->
                if (plan.sustainedMinutes > 0) {
                    samples.begin("sustained")
                    Sustained(fitted(plan, engine.contextLength), engine, samples, machine, minuteSeconds).run()
                }
            }
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
            "cores" to machine.allowedCores(),
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
                    "threads" to plan.threads,
                    "runtime" to engine.name,
                    "runtime_version" to engine.version,
                    "context_length" to engine.contextLength,
                ),
            )
            use(engine)
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
