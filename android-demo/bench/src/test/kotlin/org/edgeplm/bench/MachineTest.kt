package org.edgeplm.bench

import com.google.gson.JsonElement
import com.google.gson.JsonNull
import com.google.gson.JsonPrimitive
import org.edgeplm.bundle.Vectors
import java.io.File
import java.nio.file.Files
import kotlin.test.AfterTest
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertNull

class MachineTest {
    private val root = Files.createTempDirectory("edgeplm").toFile()

    private fun file(path: String, text: String) = File(root, path).apply { parentFile.mkdirs() }.writeText(text)

    @AfterTest
    fun clean() {
        root.deleteRecursively()
    }

    @Test
    fun `waiting ends when it is cool, or with the time`() {
        val status = ArrayDeque(listOf(3, 2, 1))
        var now = 0.0
        val machine = Machine(File("/nowhere"), also = { mapOf("thermal_status" to (status.removeFirstOrNull() ?: 4)) })
        val settle = Settle(machine, pause = { now += 1 }, clock = { now })
        assertEquals(mapOf("seconds" to 2.0, "reached" to true, "waiting_for" to null), settle.wait(30.0))
        val hot = settle.wait(5.0)
        assertEquals(false, hot["reached"])
        assertContains(hot["waiting_for"] as String, "thermal status 4")
    }

    @Test
    fun `a machine is read from its files`() {
        file("proc/meminfo", "MemTotal:  2000 kB\nMemAvailable: 900 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n")
        file("proc/self/status", "VmHWM:\t 300 kB\nVmRSS:\t 200 kB\nVmSwap:\t 0 kB\n")
        file("proc/self/smaps_rollup", "0-1 ---p [rollup]\nPss:  150 kB\n")
        file("proc/self/stat", "1 (a b) c) S 1 1 1 0 -1 4 100 0 7 0 1 1")
        file("sys/class/thermal/thermal_zone0/temp", "45000")
        file("sys/class/thermal/thermal_zone0/type", "cpu")
        file("sys/class/thermal/thermal_zone0/trip_point_0_type", "passive")
        file("sys/class/thermal/thermal_zone0/trip_point_0_temp", "85000")
        for (core in listOf(0, 10, 2)) file("sys/devices/system/cpu/cpu$core/cpufreq/scaling_cur_freq", "${core}000")
        val machine = Machine(root, mapOf("os" to "Android 15"))
        assertEquals(mapOf("peak_rss" to 307200L, "rss" to 204800L, "pss" to 153600L, "swapped" to 0L), machine.memory())
        val reading = machine.sensors()
        assertEquals(mapOf("cpu" to mapOf("celsius" to 45.0, "limit" to 85.0)), reading["temperatures"])
        assertEquals(listOf(0.0, 2.0, 10.0), reading["frequency_mhz"])
        assertEquals(7L, reading["major_faults"])
        assertEquals(6144L, reading["swap_used"])
        assertEquals("Android 15", machine.facts()["os"])
        assertEquals(2_048_000L, machine.facts()["memory_bytes"])
    }

    @Test
    fun `a repeat waits until it is as cool as the first one was`() {
        var celsius = 60
        var now = 0.0
        file("sys/class/thermal/thermal_zone0/type", "cpu")
        fun cooler() = file("sys/class/thermal/thermal_zone0/temp", "${celsius--}000")
        cooler()
        val settle = Settle(Machine(root), pause = { now += 1; cooler() }, clock = { now })
        val cooled = mapOf("seconds" to 8.0, "reached" to true, "celsius" to 52.0, "target" to 50.0)
        assertEquals(cooled, settle.cool(50.0, 30.0))
        assertEquals(false, settle.cool(10.0, 5.0)["reached"])
        assertEquals(true, Settle(Machine(File("/nowhere"))).cool(10.0, 5.0)["reached"])
    }

    @Test
    fun `zones of one name, cores and the time at each frequency`() {
        for ((zone, type) in listOf("cpu", "skin", "cpu", "cpu").withIndex()) {
            file("sys/class/thermal/thermal_zone$zone/type", type)
            file("sys/class/thermal/thermal_zone$zone/temp", "${40 + zone}000")
        }
        file("proc/self/status", "Cpus_allowed:\t5f\nCpus_allowed_list:\t0-4,6\n")
        file("sys/devices/system/cpu/online", "0-3")
        val policy = "sys/devices/system/cpu/cpufreq/policy4"
        file("$policy/related_cpus", "4 5")
        file("$policy/stats/time_in_state", "300000 100\n2419200 50\n1800000 7\n")
        val machine = Machine(root)
        val before = machine.timeInState()
        file("$policy/stats/time_in_state", "300000 100\n2419200 175\n1800000 8\n")
        assertEquals(setOf("cpu", "skin", "cpu 2", "cpu 3"), (machine.sensors()["temperatures"] as Map<*, *>).keys)
        assertEquals(43.0, Machine.hottest(machine.sensors()))
        assertEquals(listOf(0, 1, 2, 3), machine.sensors()["online_cores"])
        assertEquals(listOf(0, 1, 2, 3, 4, 6), machine.allowedCores())
        val states = mapOf("cores" to listOf(4, 5), "seconds" to mapOf("300" to 1.0, "2419.2" to 0.5, "1800" to 0.07))
        assertEquals(mapOf("policy4" to states), before)
        val spent = mapOf("policy4" to mapOf("2419.2" to 1.25, "1800" to 0.01))
        assertEquals(spent, Frequencies.between(before, machine.timeInState()))
        assertNull(Frequencies.between(null, before))
        assertNull(Frequencies.cores("many"))
    }

    @Test
    fun `the battery is told as in Python`() {
        for (case in Vectors.cases("battery.json")) {
            val told = case.getAsJsonObject("told")
            fun number(name: String) = told.get(name).takeIf { !it.isJsonNull }?.asInt
            val found = Battery.reading(
                number("level"), number("scale"), number("status"), number("plugged"), number("tenths"),
                number("millivolts"), number("microamperes"),
            )
            val expected = case.get("battery").takeIf { !it.isJsonNull }?.asJsonObject
            assertEquals(expected?.entrySet()?.associate { it.key to it.value }, found?.mapValues { json(it.value) }, "$told")
        }
    }

    private fun json(value: Any?): JsonElement = when (value) {
        null -> JsonNull.INSTANCE
        is Boolean -> JsonPrimitive(value)
        is Number -> JsonPrimitive(value)
        else -> JsonPrimitive(value as String)
    }
}
