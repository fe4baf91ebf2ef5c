package org.edgeplm.bench

import java.io.File
import java.math.BigDecimal
import kotlin.math.round

/**
 * How long the processor ran at which frequency, as `runtimes/sensors.py` tells it: for each cpufreq policy its
 * `cores` and `seconds` by MHz (Documentation/cpu-freq/cpufreq-stats).
 */
internal object Frequencies {
    private const val TICKS = 100.0 // the kernel counts in hundredths of a second

    /** Since boot; null where the kernel does not tell, or not this app. */
    fun sinceBoot(root: File): Map<String, Any?>? =
        File(root, "sys/devices/system/cpu/cpufreq").listFiles().orEmpty()
            .filter { it.name.matches(Regex("policy\\d+")) }
            .sortedBy { it.name.removePrefix("policy").toInt() }
            .mapNotNull { policy -> policy(policy)?.let { policy.name to it } }
            .toMap().ifEmpty { null }

    /** Between two readings of [sinceBoot], by policy; frequencies without any time are left out. */
    fun between(before: Any?, after: Any?): Map<String, Any?>? {
        if (before !is Map<*, *> || after !is Map<*, *>) return null
        return after.keys.filter { it in before }.associate { policy ->
            val then = seconds(before[policy])
            policy as String to seconds(after[policy])
                .mapValues { (mhz, now) -> now - (then[mhz] ?: 0.0) }
                .filterValues { it > 0 }.mapValues { round(it.value * TICKS) / TICKS }
        }
    }

    /** The core numbers in a list such as `0-3,6` or `0 1 2 3`; null for anything else. */
    fun cores(text: String?): List<Int>? = text.orEmpty().split(',', ' ').filter { it.isNotEmpty() }.flatMap { part ->
        val first = part.substringBefore('-').toIntOrNull() ?: return null
        val last = part.substringAfter('-').toIntOrNull() ?: return null
        first..last
    }.ifEmpty { null }

    private fun policy(folder: File): Map<String, Any?>? {
        val words = readText(File(folder, "stats/time_in_state")).orEmpty().split(Regex("\\s+"))
        val seconds = words.chunked(2).mapNotNull { pair ->
            val khz = pair[0].toLongOrNull()
            val ticks = pair.getOrNull(1)?.toLongOrNull()
            if (khz == null || ticks == null) null else mhz(khz) to ticks / TICKS
        }.toMap()
        val cores = cores(readText(File(folder, "related_cpus"))) ?: cores(readText(File(folder, "affected_cpus")))
        return if (seconds.isEmpty()) null else mapOf("cores" to cores, "seconds" to seconds)
    }

    private fun mhz(khz: Long) = BigDecimal(khz).movePointLeft(3).stripTrailingZeros().toPlainString()

    private fun seconds(policy: Any?): Map<String, Double> =
        ((policy as? Map<*, *>)?.get("seconds") as? Map<*, *>).orEmpty()
            .entries.associate { it.key as String to it.value as Double }
}
