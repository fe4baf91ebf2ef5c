package org.edgeplm.bench

import com.google.gson.JsonElement
import com.google.gson.JsonObject
import com.google.gson.JsonPrimitive
import org.edgeplm.bundle.EngineException
import org.edgeplm.bundle.Json
import org.edgeplm.bundle.TokenEngine
import org.edgeplm.bundle.Vectors
import java.io.File
import java.io.StringWriter
import java.nio.file.Files
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** tests/fake_engine.py in Kotlin: always predicts the token after the last one. */
open class FakeEngine : TokenEngine {
    override val name = "fake"
    override val version = "7.0"
    override val adapters = emptyList<String>()
    override val contextLength = 200
    override val vocabSize = 50
    override val picksFreely = true
    val seen = mutableListOf<MutableList<Int>>()
    var closed = false

    override fun useAdapter(name: String?) {
        if (name != null) throw EngineException("has no attached adapter '$name'")
    }

    override fun prefill(ids: IntArray) {
        if (ids.isEmpty() || ids.size >= contextLength) throw EngineException("a prompt of ${ids.size} tokens does not fit")
        seen += ids.toMutableList()
    }

    override fun decode(token: Int) {
        seen.last() += token
        if (seen.last().size > contextLength) throw EngineException("the context is full")
    }

    override fun pick() = (seen.last().last() + 1) % vocabSize

    override fun close() {
        closed = true
    }
}

class BenchTest {
    private val engines = mutableListOf<FakeEngine>()

    private fun run(plan: String, open: OpenEngine = { FakeEngine().also { engines += it } }): List<JsonObject> {
        val out = StringWriter()
        Agent(Machine(), mapOf("executorch" to "1.4.1"), open).run(plan, Samples(out))
        return out.toString().lines().filter { it.isNotEmpty() }.map { Json.parse(it.toByteArray()).asJsonObject }
    }

    /** A sample without what differs from run to run, as tests/test_vectors.py has it. */
    private fun plain(sample: JsonObject): Map<String, JsonElement> = sample.entrySet().associate { (name, value) ->
        name to when {
            name !in setOf("seconds", "sampling_seconds", "ttft", "t") -> value
            value.isJsonArray -> JsonPrimitive("${value.asJsonArray.size()} numbers")
            else -> JsonPrimitive(if ((value as JsonPrimitive).isNumber) "a number" else "not a number")
        }
    }

    @Test
    fun `plans are read or refused as in Python`() {
        for (case in Vectors.cases("plan.json")) {
            val text = case.get("plan").toString()
            if (case.get("refused").isJsonNull) {
                val read = case.getAsJsonObject("read")
                val plan = Plan.parse(text)
                assertEquals(read.get("bundle").asString, plan.bundle)
                assertEquals(read.get("threads").takeIf { !it.isJsonNull }?.asInt, plan.threads)
                assertEquals(read.get("adapter").takeIf { !it.isJsonNull }?.asString, plan.adapter)
                val counts = listOf(plan.promptTokens, plan.decodeTokens, plan.repeats, plan.warmup, plan.maxNewTokens)
                val names = listOf("prompt_tokens", "decode_tokens", "repeats", "warmup", "max_new_tokens")
                assertEquals(names.map { read.get(it).asInt }, counts)
                assertEquals(read.get("depths").asJsonArray.map { it.asInt }, plan.depths)
                assertEquals(read.get("stop_ids").asJsonArray.map { it.asInt }, plan.stopIds)
                assertEquals(read.get("prompts_ids").asJsonArray.map { ids -> ids.asJsonArray.map { it.asInt } }, plan.promptsIds)
                assertEquals(read.get("settle_seconds").asDouble, plan.settleSeconds)
            } else {
                assertContains(assertFailsWith<PlanException>(text) { Plan.parse(text) }.message!!, case.get("refused").asString)
            }
        }
    }

    @Test
    fun `a field of a later version is taken only if it asks for nothing`() {
        assertEquals("b", Plan.parse("""{"bundle": "b", "later": null}""").bundle)
        assertFailsWith<PlanException> { Plan.parse("""{"bundle": "b", "later": 1}""") }
        assertContains(assertFailsWith<PlanException> { Plan.parse("{'bundle': 'b'}") }.message!!, "not JSON")
    }

    @Test
    fun `token ids are numpy's`() {
        for (case in Vectors.cases("tokens.json")) {
            val ids = case.getAsJsonArray("ids").map { it.asInt }
            assertEquals(ids, TokenIds.of(case.get("vocab_size").asInt, ids.size).toList())
        }
    }

    @Test
    fun `samples are Python's, in order and with all their fields`() {
        for (case in Vectors.cases("samples.json")) {
            val written = run(case.get("plan").toString()).iterator()
            for (expected in case.getAsJsonArray("samples").map { it.asJsonObject }) {
                assertTrue(written.hasNext(), "${case.get("name")}: nothing left for $expected")
                val found = written.next()
                val fields = expected.getAsJsonObject("fields").entrySet().associate { it.key to it.value }
                assertEquals(fields, plain(found).filterKeys { it in fields }, case.get("name").asString)
                assertTrue(found.keySet().containsAll(expected.getAsJsonArray("also").map { it.asString }), "$found")
            }
            assertFalse(written.hasNext())
        }
    }

    @Test
    fun `engines are closed and do the same work each time`() {
        run("""{"bundle": "b", "prompt_tokens": 12, "decode_tokens": 5, "repeats": 1, "warmup": 1, "depths": [20]}""")
        val (first, again) = engines
        assertEquals(listOf(12, 25, 12, 25), first.seen.map { it.size })
        assertEquals(first.seen[0], first.seen[2])
        assertTrue(first.closed && again.closed && again.seen.isEmpty())
    }

    @Test
    fun `what goes wrong is the last sample`() {
        fun last(plan: String, open: OpenEngine = { FakeEngine() }) = run(plan, open).last()
        assertEquals("error", last("[]").get("kind").asString)
        assertContains(last("""{"bundle": "b", "prompt_tokens": 200}""").get("message").asString, "do not fit a context")
        assertContains(last("""{"bundle": "b", "adapter": "x"}""").get("message").asString, "no attached adapter")
        val broken = last("""{"bundle": "b"}""") { throw UnsatisfiedLinkError("libx.so") }
        assertEquals("load", broken.get("step").asString)
        assertContains(broken.get("message").asString, "libx.so")
        assertContains(last("""{"bundle": "b"}""") { throw OutOfMemoryError() }.get("message").asString, "smaller bundle")
        assertContains(last("""{"bundle": "b"}""") { throw IllegalStateException("odd") }.get("message").asString, "odd")
    }

    @Test
    fun `a runtime that cannot pick freely says so with null`() {
        val samples = run("""{"bundle": "b", "prompt_tokens": 3, "decode_tokens": 2, "repeats": 1, "depths": [0]}""") {
            object : FakeEngine() {
                override val picksFreely = false
            }
        }
        assertTrue(samples.filter { it.get("kind").asString == "decode" }.all { it.get("sampling_seconds").isJsonNull })
    }

    @Test
    fun `a summary follows the samples`() {
        val summing = Summing()
        var summary = Summary()
        val samples = Samples(StringWriter()) { summary = summing.add(it) }
        Agent(Machine(also = { mapOf("thermal_status" to 1) }), emptyMap()) { FakeEngine() }
            .run("""{"bundle": "b", "prompt_tokens": 9, "decode_tokens": 3, "repeats": 3, "depths": [0, 7]}""", samples)
        assertTrue(summary.done)
        assertNull(summary.problem)
        assertEquals(setOf(0, 7), summary.decodeRates.keys)
        assertEquals(setOf("cold", "warm"), summary.loadSeconds.keys)
        assertTrue(summary.ttftSeconds!! > 0 && summary.prefillRate!! > 0 && summary.peakRssBytes!! > 1_000_000)
        assertEquals(1, summary.thermalStatus)
    }

    @Test
    fun `a result takes its name when it is whole`() {
        val folder = Files.createTempDirectory("edgeplm").toFile()
        val path = File(folder, "out/result.jsonl")
        ResultFile(path).use { file ->
            Samples(file.writer).emit("hello")
            assertFalse(path.exists())
        }
        assertContains(path.readText(), "\"kind\":\"hello\"")
        assertEquals(listOf("result.jsonl"), path.parentFile.list()!!.toList())
        folder.deleteRecursively()
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
        val root = Files.createTempDirectory("edgeplm").toFile()
        fun file(path: String, text: String) = File(root, path).apply { parentFile.mkdirs() }.writeText(text)
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
        root.deleteRecursively()
    }
}
