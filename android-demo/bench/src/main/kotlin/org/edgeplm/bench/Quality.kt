package org.edgeplm.bench

import org.edgeplm.bundle.EngineException
import org.edgeplm.bundle.TokenEngine
import kotlin.math.exp
import kotlin.math.ln

/** How well a bundle answers, as `runtimes/quality.py`: greedy answers, and the likelihood of given texts. */
internal class Quality(private val plan: Plan, private val engine: TokenEngine, private val samples: Samples) {
    fun run() {
        plan.promptsIds.forEachIndexed { index, ids ->
            samples.begin("answer ${index + 1} of ${plan.promptsIds.size}")
            val started = System.nanoTime()
            val answer = engine.generate(ids.toIntArray(), plan.maxNewTokens, plan.stopIds.toSet())
            samples.emit("answer", mapOf("index" to index, "ids" to answer, "seconds" to Agent.secondsSince(started)))
        }
        plan.scoreIds.forEachIndexed { index, ids ->
            samples.begin("score ${index + 1} of ${plan.scoreIds.size}")
            check(ids)
            val started = System.nanoTime()
            val losses = losses(ids)
            val seconds = Agent.secondsSince(started)
            val fields = mapOf("index" to index, "tokens" to losses.size, "nll" to losses.average(), "seconds" to seconds)
            samples.emit("score", fields)
        }
    }

    /** -ln p(token | all before it) of every token but the first, in nats. */
    private fun losses(ids: List<Int>): List<Double> = ids.zipWithNext().mapIndexed { position, (token, following) ->
        if (position == 0) engine.prefill(intArrayOf(token)) else engine.decode(token)
        surprise(engine.logits ?: throw EngineException("${engine.name} gave no logits"), following)
    }

    private fun surprise(logits: FloatArray, token: Int): Double {
        val highest = logits.max().toDouble()
        return highest + ln(logits.sumOf { exp(it - highest) }) - logits[token]
    }

    private fun check(ids: List<Int>) {
        if (ids.size > engine.contextLength) {
            throw PlanException(
                "score_ids: a text of ${ids.size} tokens does not fit a context length of ${engine.contextLength}. " +
                    "Cut the texts to score shorter",
            )
        }
        ids.firstOrNull { it >= engine.vocabSize }?.let {
            throw PlanException("score_ids: the model has no token $it. Encode the texts with the bundle's own tokenizer")
        }
    }
}
