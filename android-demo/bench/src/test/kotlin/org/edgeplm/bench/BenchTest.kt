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

    override val logits get() = FloatArray(vocabSize).also { if (seen.isNotEmpty()) it[pick()] = 1f }

    override fun pick() = (seen.last().last() + 1) % vocabSize

    override fun close() {
        closed = true
    }
}

class BenchTest {
    private val engines = mutableListOf<FakeEngine>()

    private fun run(plan: String, open: OpenEngine = { FakeEngine().also { engines += it } }): List<JsonObject> {
        val out = StringWriter()
        // A machine that tells nothing of itself, as most of Android does not, and whose minutes last no time.
        Agent(Machine(File("/nowhere")), mapOf("executorch" to "1.4.1"), minuteSeconds = 0.0, openEngine = open)
            .run(plan, Samples(out))
        return out.toString().lines().filter { it.isNotEmpty() }.map { Json.parse(it.toByteArray()).asJsonObject }
    }

    /** A sample without what differs from run to run, as tests/test_vectors.py has it. */
    private fun plain(sample: JsonObject): Map<String, JsonElement> = sample.entrySet().associate { (name, value) ->
        name to when {
            name == "nll" -> JsonPrimitive(Math.round(value.asDouble * 1e6) / 1e6)
            name !in setOf("seconds", "sampling_seconds", "ttft", "t", "passes") -> value
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
                // What came after the first version is in a vector only where it is asked for.
                assertEquals(read.get("energy_seconds")?.asDouble ?: 5.0, plan.energySeconds)
                assertEquals(read.get("sustained_minutes")?.asDouble ?: 0.0, plan.sustainedMinutes)
                val texts = read.get("score_ids")?.asJsonArray?.map { ids -> ids.asJsonArray.map { it.asInt } }
                assertEquals(texts ?: emptyList(), plan.scoreIds)
                assertEquals(read.get("count_instructions")?.asBoolean ?: false, plan.countInstructions)
                val cores = read.get("cores")
                assertEquals(cores?.takeIf { it.isJsonArray }?.asJsonArray?.map { it.asInt }, plan.cores?.numbers)
                assertEquals(cores != null, plan.cores != null)
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
    fun `what no app can do is refused before anything is loaded`() {
        for ((asked, why) in listOf(
            """"cores": "fast"""" to "cores: an Android app cannot bind its threads",
            """"cores": [4, 5]""" to "cores: an Android app cannot bind its threads",
            """"count_instructions": true, "threads": 1, "repeats": 0""" to "count_instructions: Android keeps",
        )) {
            val samples = run("""{"bundle": "b", $asked}""") { throw AssertionError("it was loaded") }
            assertEquals(listOf("hello", "error"), samples.map { it.get("kind").asString })
            assertContains(samples.last().get("message").asString, why)
        }
    }

    @Test
    fun `texts are scored only with logits, and only if they fit`() {
        fun refused(ids: List<Int>, engine: FakeEngine): JsonObject {
            val samples = run("""{"bundle": "b", "repeats": 3, "score_ids": [$ids]}""") { engine }
            assertTrue(engine.closed)
            return samples.last()
        }
        val without = object : TokenEngine by FakeEngine() {
            override val logits: FloatArray? = null
        }
        val last = run("""{"bundle": "b", "repeats": 3, "score_ids": [[1, 2]]}""") { without }
        assertContains(last.last().get("message").asString, "score_ids: fake gives an app no logits")
        assertTrue(last.none { it.get("kind").asString == "prefill" }, "nothing is measured in vain")
        assertContains(refused(List(201) { 1 }, FakeEngine()).get("message").asString, "201 tokens does not fit")
        assertContains(refused(listOf(1, 50), FakeEngine()).get("message").asString, "the model has no token 50")
    }

    @Test
    fun `a sustained rate has settled when it has in Python`() {
        for (case in Vectors.cases("settled.json")) {
            val rates = case.getAsJsonArray("rates").map { it.asDouble }
            assertEquals(case.get("settled").asBoolean, Sustained.settled(rates), "$rates")
        }
    }

    @Test
    fun `a bundle that does not fit, or an empty battery, is said`() {
        fun last(reading: Map<String, Any?>, bytes: Long): JsonObject {
            val out = StringWriter()
            Agent(Machine(File("/nowhere"), also = { reading }), emptyMap(), { bytes }) { FakeEngine() }
                .run("""{"bundle": "b", "repeats": 1, "decode_tokens": 2}""", Samples(out))
            return Json.parse(out.toString().trim().lines().last().toByteArray()).asJsonObject
        }
        val full = last(mapOf("memory_available" to 90_000_000L), 165_000_000)
        assertEquals("preflight", full.get("step").asString)
        assertContains(full.get("message").asString, "the bundle has 165 MB, and 90 MB of memory are free")
        val empty = mapOf("level" to 4, "charging" to false)
        assertContains(last(mapOf("battery" to empty), 1).get("message").asString, "the battery is at 4 %")
        assertEquals("done", last(mapOf("battery" to empty + ("charging" to true)), 1).get("kind").asString)
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
        val plan = """{"bundle": "b", "prompt_tokens": 9, "decode_tokens": 3, "repeats": 3, "depths": [0, 7],
            "sustained_minutes": 2}"""
        Agent(Machine(also = { mapOf("thermal_status" to 1) }), emptyMap(), minuteSeconds = 0.0) { FakeEngine() }
            .run(plan, samples)
        assertTrue(summary.done)
        assertNull(summary.problem)
        assertEquals(setOf(0, 7), summary.decodeRates.keys)
        assertEquals(setOf("cold", "warm"), summary.loadSeconds.keys)
        assertTrue(summary.ttftSeconds!! > 0 && summary.prefillRate!! > 0 && summary.peakRssBytes!! > 1_000_000)
        assertEquals(1, summary.thermalStatus)
        assertEquals(2, summary.sustainedRates.filter { it > 0 }.size)
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
}
