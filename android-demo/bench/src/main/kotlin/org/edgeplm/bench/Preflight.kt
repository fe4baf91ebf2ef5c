package org.edgeplm.bench

import org.edgeplm.bundle.EngineException
import org.edgeplm.bundle.TokenEngine

/** What makes a run impossible, pointless or harmful: `runtimes/preflight.py`, and what an Android app cannot do. */
internal object Preflight {
    private const val EMPTY_BATTERY = 5

    /** Refuses what no app can do. A plan that asks for it would otherwise get figures of something else. */
    fun refuse(plan: Plan) {
        if (plan.cores != null) {
            throw PlanException(
                "cores: an Android app cannot bind its threads to cores; Android places them. Leave the cores out",
            )
        }
        if (plan.countInstructions) {
            throw PlanException(
                "count_instructions: Android keeps the processor's counters from apps. Count on a PC or a board: the " +
                    "same processor family and runtime version give the same instructions",
            )
        }
        if (plan.golden) {
            throw PlanException(
                "golden: the app does not repeat golden prompts. Verify the bundle on a PC or a board: edgeplm verify",
            )
        }
    }

    /** Refuses what the [engine] cannot do, before anything is measured with it. */
    fun refuse(plan: Plan, engine: TokenEngine) {
        if (plan.scoreIds.isNotEmpty() && engine.logits == null) {
            throw PlanException(
                "score_ids: ${engine.name} gives an app no logits, so no likelihood can be computed. Score the bundle " +
                    "on a PC or a board, or an ExecuTorch bundle here",
            )
        }
    }

    /** Refuses to load a bundle of [bytes] into less free memory, or to run on a battery that is about to be empty. */
    fun refuse(reading: Map<String, Any?>, bytes: Long) {
        val available = reading["memory_available"] as Long?
        if (available != null && bytes > available) {
            throw EngineException(
                "the bundle has ${bytes / MEGA} MB, and ${available / MEGA} MB of memory are free. End other programs " +
                    "on the device, or export a smaller model or a lower precision",
            )
        }
        val battery = (reading["battery"] as Map<*, *>?).orEmpty()
        val level = battery["level"] as Int?
        if (level != null && level < EMPTY_BATTERY && battery["charging"] != true) {
            throw EngineException("the battery is at $level %. Charge the device first")
        }
    }

    private const val MEGA = 1_000_000
}
