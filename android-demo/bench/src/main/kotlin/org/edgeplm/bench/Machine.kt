package org.edgeplm.bench

import java.io.File
import java.io.IOException

/**
 * What the machine is and does just now, in the words of `runtimes/facts.py` and `runtimes/sensors.py`; null
 * wherever it does not tell. Android hides much of /proc and /sys from apps. [root] stands for `/`.
 *
 * [described] replaces facts that the system's own API knows better (board, os); [also] adds to each reading,
 * such as Android's thermal status.
 */
class Machine(
    private val root: File = File("/"),
    private val described: Map<String, Any?> = emptyMap(),
    private val also: () -> Map<String, Any?> = { emptyMap() },
) {
    /** The facts; memory in bytes, frequency in MHz. */
    fun facts(): Map<String, Any?> = linkedMapOf(
        "machine" to (System.getProperty("os.arch") ?: "unknown"),
        "board" to text("proc/device-tree/model"),
        "cpu" to text("proc/cpuinfo")?.lineSequence()?.firstOrNull { it.startsWith("model name") }?.substringAfter(": "),
        "cores_physical" to null,
        "cores_logical" to cores(),
        "max_mhz" to eachCore("cpuinfo_max_freq", ::mhz)?.filterNotNull()?.maxOrNull(),
        "memory_bytes" to table("proc/meminfo")["MemTotal"],
        "kernel" to "${System.getProperty("os.name")} ${System.getProperty("os.version")}",
        "os" to null,
    ) + described

    /** Cores that this process may use. */
    fun cores(): Int = Runtime.getRuntime().availableProcessors()

    /** The numbers of those cores. */
    fun allowedCores(): List<Int>? = text("proc/self/status").orEmpty().lineSequence()
        .firstOrNull { it.startsWith("Cpus_allowed_list:") }
        ?.let { Frequencies.cores(it.substringAfter(':').trim()) }

    /** Seconds at each frequency since boot, by cpufreq policy. */
    fun timeInState(): Map<String, Any?>? = Frequencies.sinceBoot(root)

    /** Bytes of this process alone: peak RSS (VmHWM), RSS, PSS, and what of it is swapped out. */
    fun memory(): Map<String, Any?> {
        val status = table("proc/self/status")
        return linkedMapOf(
            "peak_rss" to status["VmHWM"],
            "rss" to status["VmRSS"],
            "pss" to table("proc/self/smaps_rollup")["Pss"],
            "swapped" to status["VmSwap"],
        )
    }

    /** One reading: degrees Celsius, MHz, bytes. */
    fun sensors(): Map<String, Any?> {
        val meminfo = table("proc/meminfo")
        val swap = meminfo["SwapTotal"]?.let { total -> meminfo["SwapFree"]?.let { total - it } }
        return linkedMapOf(
            "temperatures" to temperatures(),
            "thermal_status" to null, // Android's own API tells: [also]
            "governors" to eachCore("scaling_governor") { it },
            "frequency_mhz" to eachCore("scaling_cur_freq", ::mhz),
            "allowed_mhz" to eachCore("scaling_max_freq", ::mhz),
            "hardware_mhz" to eachCore("cpuinfo_max_freq", ::mhz),
            "time_in_state" to timeInState(),
            "online_cores" to Frequencies.cores(text("sys/devices/system/cpu/online")),
            "throttle_flags" to null,
            "throttle_events" to null,
            "battery" to null,
            "load_average" to text("proc/loadavg")?.split(" ")?.take(3)?.mapNotNull { it.toDoubleOrNull() },
            "processor" to null, // Android closes /proc/stat to apps
            "memory_available" to meminfo["MemAvailable"],
            "memory_total" to meminfo["MemTotal"],
            "swap_used" to swap,
            "major_faults" to majorFaults(),
        ) + also()
    }

    private fun temperatures(): Map<String, Any?>? {
        val found = linkedMapOf<String, Any?>()
        File(root, "sys/class/thermal").listFiles().orEmpty().filter { it.name.startsWith("thermal_zone") }
            .sortedBy { it.name }
            .forEach { zone ->
                val celsius = number(File(zone, "temp"))?.takeIf { it in 1 until HOTTEST }?.let { it / 1000.0 }
                val name = readText(File(zone, "type")) ?: zone.name
                if (celsius != null) {
                    found[unused(name, found.keys)] = mapOf("celsius" to celsius, "limit" to passiveTrip(zone))
                }
            }
        return found.ifEmpty { null }
    }

    /** Several zones may have one name: the second is `name 2`, as in Python. */
    private fun unused(name: String, taken: Set<String>): String =
        if (name !in taken) name else generateSequence(2) { it + 1 }.map { "$name $it" }.first { it !in taken }

    private fun passiveTrip(zone: File): Double? = zone.listFiles().orEmpty()
        .filter { it.name.startsWith("trip_point_") && it.name.endsWith("_type") && readText(it) == "passive" }
        .mapNotNull { number(File(zone, it.name.removeSuffix("_type") + "_temp")) }
        .filter { it > 0 }.minOrNull()?.let { it / 1000.0 }

    private fun <T> eachCore(name: String, value: (String) -> T?): List<T?>? {
        val folders = File(root, "sys/devices/system/cpu").listFiles().orEmpty()
            .filter { it.name.matches(Regex("cpu\\d+")) }.sortedBy { it.name.removePrefix("cpu").toInt() }
        val values = folders.map { folder -> readText(File(folder, "cpufreq/$name"))?.let(value) }
        return values.takeIf { it.any { found -> found != null } }
    }

    private fun mhz(text: String): Double? = text.toLongOrNull()?.let { it / 1000.0 }

    private fun majorFaults(): Long? =
        text("proc/self/stat")?.substringAfterLast(")")?.trim()?.split(" ")?.getOrNull(MAJFLT)?.toLongOrNull()

    /** The `Name: number [kB]` lines of a /proc file, in bytes. */
    private fun table(name: String): Map<String, Long> = text(name).orEmpty().lines().mapNotNull { line ->
        val words = line.substringAfter(":", "").trim().split(Regex("\\s+"))
        words[0].toLongOrNull()?.let { line.substringBefore(":") to it * (if (words.getOrNull(1) == "kB") 1024 else 1) }
    }.toMap()

    private fun text(name: String): String? = readText(File(root, name))

    private fun number(path: File): Long? = readText(path)?.toLongOrNull()

    companion object {
        private const val HOTTEST = 200_000L
        private const val MAJFLT = 9 // the tenth field behind the process's name: proc(5)

        /** The highest temperature of a reading of [sensors], in degrees Celsius. */
        fun hottest(reading: Map<String, Any?>): Double? =
            (reading["temperatures"] as Map<*, *>?).orEmpty().values
                .mapNotNull { (it as Map<*, *>)["celsius"] as Double? }.maxOrNull()
    }
}

/** The text of a file of /proc or /sys without blanks around it; null if it is empty or cannot be read. */
internal fun readText(path: File): String? = try {
    path.readText().trim('\u0000', ' ', '\n', '\t').ifEmpty { null }
} catch (_: IOException) {
    null
} catch (_: SecurityException) {
    null
}
