package org.edgeplm.demo.core

import org.edgeplm.bench.Summary
import java.util.Locale

/** The lines of the benchmark screen: what, and its value. */
object SummaryText {
    private val THERMAL = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")

    fun lines(summary: Summary): List<Pair<String, String>> = listOfNotNull(
        "Step" to (if (summary.done) "done" else summary.step),
        summary.loadSeconds["cold"]?.let { "Load, cold" to "%.2f s".of(it) },
        summary.loadSeconds["warm"]?.let { "Load, warm" to "%.2f s".of(it) },
        summary.ttftSeconds?.let { "Time to first token" to "%.3f s".of(it) },
        summary.prefillRate?.let { "Prefill" to "%.1f tokens/s".of(it) },
        *summary.decodeRates.map { (depth, rate) -> "Decode at depth $depth" to "%.1f tokens/s".of(rate) }.toTypedArray(),
        summary.sustainedRates.lastOrNull()?.let {
            "Sustained, minute ${summary.sustainedRates.size}" to "%.1f tokens/s".of(it)
        },
        summary.pssBytes?.let { "Memory (PSS)" to megabytes(it) },
        summary.peakRssBytes?.let { "Peak memory (RSS)" to megabytes(it) },
        summary.thermalStatus?.let { "Thermal status" to (THERMAL.getOrNull(it) ?: it.toString()) },
        summary.problem?.let { "Problem" to it },
    )

    private fun megabytes(bytes: Long) = "%.0f MB".of(bytes / 1e6)

    private fun String.of(value: Double) = format(Locale.ROOT, value)
}
