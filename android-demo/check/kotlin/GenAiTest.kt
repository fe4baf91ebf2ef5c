package org.edgeplm.engine

import com.google.gson.JsonElement
import com.google.gson.JsonObject
import org.edgeplm.bench.Agent
import org.edgeplm.bench.Machine
import org.edgeplm.bench.Samples
import org.edgeplm.bundle.Bundles
import org.edgeplm.bundle.EngineException
import org.edgeplm.bundle.Finish
import org.edgeplm.bundle.Json
import org.edgeplm.bundle.Vectors
import org.edgeplm.bundle.prompt
import org.junit.Assume
import java.io.File
import java.io.StringWriter
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertTrue

/**
 * The ONNX engine with the real runtime, the x86 library of the Python wheel, on a bundle of the real exporter. What
 * it must answer is what Python answered: check/bundles.py.
 */
class GenAiTest {
    private val folder: File
    private val expected: JsonObject

    init {
        Assume.assumeTrue("no runtime on this machine", System.getProperty("edgeplm.genai") != null)
        val bundles = File(System.getProperty("edgeplm.bundles"))
        folder = File(bundles, "onnx")
        expected = Json.parse(File(bundles, ".expected.json").readBytes()).asJsonObject
    }

    private val manifest by lazy { Bundles.open(folder) }

    private fun people() = expected.getAsJsonObject("answers").entrySet().map { (name, answer) ->
        name.takeIf { it != "the base" } to answer.asJsonObject
    }

    private fun ints(value: JsonElement) = value.asJsonArray.map { it.asInt }

    @Test
    fun `token ids are Python's, person by person and back`() {
        val ids = ints(expected.get("prompt")).toIntArray()
        GenAiTokens(folder, manifest, null).use { engine ->
            assertEquals(listOf("anna", "ben"), engine.adapters)
            for ((person, answer) in people() + people().reversed()) {
                engine.useAdapter(person)
                assertEquals(ints(answer.get("ids")), engine.generate(ids, 16, manifest.tokens.stop.toSet()), "$person")
            }
        }
        assertEquals(3, people().map { it.second.get("ids") }.distinct().size, "people who answer alike prove nothing")
    }

    @Test
    fun `the prompt is encoded as training did, and the text is Python's`() {
        val text = expected.get("text").asString
        assertEquals(expected.get("rendered").asString, manifest.prompt(text))
        GenAiChat(folder, manifest).use { engine ->
            for ((person, answer) in people()) {
                engine.useAdapter(person)
                val said = StringBuilder()
                val finish = engine.generate(manifest.prompt(text), 16) { said.append(it) }
                assertEquals(answer.get("text").asString, said.toString(), "$person")
                assertEquals(if (answer.get("stopped").asBoolean) Finish.STOP_TOKEN else Finish.LENGTH, finish)
            }
        }
    }

    @Test
    fun `an answer is stopped from its own text`() {
        GenAiChat(folder, manifest).use { engine ->
            var pieces = 0
            val finish = engine.generate(manifest.prompt("Go on."), 64) { if (++pieces == 3) engine.stop() }
            assertEquals(Finish.STOPPED to 3, finish to pieces)
        }
    }

    @Test
    fun `what cannot be done is said`() {
        GenAiChat(folder, manifest).use { engine ->
            assertContains(assertFailsWith<EngineException> { engine.useAdapter("nobody") }.message!!, "It has: anna, ben")
            val long = manifest.prompt("word ".repeat(200))
            assertContains(assertFailsWith<EngineException> { engine.generate(long, 4) {} }.message!!, "do not fit")
        }
        assertContains(assertFailsWith<EngineException> { GenAiTokens(folder, manifest, 2) }.message!!, "threads")
        val broken = Vectors.copy(folder)
        File(broken, "model.onnx").writeText("no graph")
        assertContains(assertFailsWith<EngineException> { GenAiChat(broken, manifest) }.message!!, "could not load")
    }

    @Test
    fun `likelihoods are refused, for GenAI gives an app no logits`() {
        val out = StringWriter()
        val agent = Agent(Machine(), emptyMap()) { GenAiTokens(folder, manifest, it.threads) }
        assertFalse(agent.run("""{"bundle": "x", "score_ids": [[1, 2]]}""", Samples(out)))
        assertContains(out.toString().trim().lines().last(), "score_ids: ${Engines.ONNX} gives an app no logits")
    }

    @Test
    fun `a plan is carried out`() {
        val out = StringWriter()
        // A phone that throttles: Python has to find this run invalid.
        val throttled = Machine(also = { mapOf("thermal_status" to 3) })
        val agent = Agent(throttled, emptyMap(), minuteSeconds = 0.1) { GenAiTokens(folder, manifest, it.threads) }
        val plan = """{"bundle": "x", "adapter": "ben", "prompt_tokens": 20, "decode_tokens": 4, "repeats": 2, "depths": [0, 30],
            "prompts_ids": [${expected.get("prompt")}], "max_new_tokens": 16, "stop_ids": ${manifest.tokens.stop},
            "sustained_minutes": 2}"""
        assertTrue(agent.run(plan, Samples(out)), out.toString())
        System.getProperty("edgeplm.samples")?.let { File(it).writeText(out.toString()) }
        val answer = out.toString().lines().single { "\"answer\"" in it }
        val ids = Json.parse(answer.toByteArray()).asJsonObject.get("ids")
        assertEquals(ints(expected.getAsJsonObject("answers").getAsJsonObject("ben").get("ids")), ints(ids))
    }
}
