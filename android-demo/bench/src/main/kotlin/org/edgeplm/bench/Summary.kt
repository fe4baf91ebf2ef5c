package org.edgeplm.bench

/** What a screen shows of a run while it goes on; medians over repeats, the warm-up left out. */
data class Summary(
    val step: String = "",
    val ttftSeconds: Double? = null,
    val prefillRate: Double? = null,
    val decodeRates: Map<Int, Double> = emptyMap(),
    val loadSeconds: Map<String, Double> = emptyMap(),
    val pssBytes: Long? = null,
    val peakRssBytes: Long? = null,
    val thermalStatus: Int? = null,
    val problem: String? = null,
    val done: Boolean = false,
    val sustainedRates: List<Double> = emptyList(),
)

/** Turns samples, one after another, into a [Summary]; the host derives its statistics from the samples itself. */
class Summing {
    private val ttft = mutableListOf<Double>()
    private val prefill = mutableListOf<Double>()
    private val decode = sortedMapOf<Int, MutableList<Double>>()
    private var summary = Summary()

    fun add(sample: Map<String, Any?>): Summary {
        when (sample["kind"]) {
            "step" -> summary = summary.copy(step = sample["name"] as String)
            "load" -> summary = summary.copy(
                loadSeconds = summary.loadSeconds + (sample["state"] as String to sample["seconds"] as Double),
            )
            "memory" -> summary = summary.copy(
                pssBytes = sample["pss"] as Long? ?: summary.pssBytes,
                peakRssBytes = sample["peak_rss"] as Long? ?: summary.peakRssBytes,
            )
            "sensors" -> summary = summary.copy(thermalStatus = sample["thermal_status"] as Int? ?: summary.thermalStatus)
            "sustained" -> summary = summary.copy(
                sustainedRates = summary.sustainedRates + sample["tokens"] as Int / sample["seconds"] as Double,
                thermalStatus = sample["thermal_status"] as Int? ?: summary.thermalStatus,
            )
            "error" -> summary = summary.copy(problem = sample["message"] as String?, done = true)
            "done" -> summary = summary.copy(done = true)
            "prefill", "decode" -> if (sample["warmup"] != true) timed(sample)
        }
        return summary
    }

    private fun timed(sample: Map<String, Any?>) {
        val tokens = sample["tokens"] as Int
        if (sample["kind"] == "prefill") {
            ttft += sample["ttft"] as Double
            prefill += tokens / (sample["seconds"] as Double)
        } else {
            val steps = (sample["seconds"] as List<*>).sumOf { it as Double }
            decode.getOrPut(sample["depth"] as Int) { mutableListOf() } += tokens / steps
        }
        summary = summary.copy(
            ttftSeconds = median(ttft),
            prefillRate = median(prefill),
            decodeRates = decode.mapValues { (_, rates) -> median(rates) ?: 0.0 },
        )
    }

    private fun median(values: List<Double>): Double? {
        if (values.isEmpty()) return null
        val sorted = values.sorted()
        return (sorted[(sorted.size - 1) / 2] + sorted[sorted.size / 2]) / 2
    }
}
