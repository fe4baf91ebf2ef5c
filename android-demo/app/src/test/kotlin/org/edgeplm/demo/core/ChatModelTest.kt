package org.edgeplm.demo.core

import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import org.edgeplm.bench.Summary
import org.edgeplm.bundle.BundleSource
import org.edgeplm.bundle.ChatEngine
import org.edgeplm.bundle.EngineException
import org.edgeplm.bundle.Finish
import org.edgeplm.bundle.Shelf
import org.edgeplm.bundle.Vectors
import java.io.File
import java.util.concurrent.CountDownLatch
import java.util.concurrent.Executors
import kotlin.test.AfterTest
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** Says who answers and what it was asked, word by word. */
private class Parrot : ChatEngine {
    override val name = "parrot"
    override val version = "1"
    override val adapters = listOf("maud")
    var person: String? = null
    var closed = false
    val begun = CountDownLatch(1)
    @Volatile var endless = false
    @Volatile private var stop = false

    override fun useAdapter(name: String?) {
        if (closed) throw EngineException("closed")
        person = name
    }

    override fun generate(prompt: String, maxNewTokens: Int, onText: (String) -> Unit): Finish {
        if (closed) throw EngineException("closed")
        if ("fail" in prompt) throw EngineException("the runtime says no")
        stop = false
        onText("${person ?: "base"}: ")
        onText(prompt)
        begun.countDown()
        while (endless) if (stop) return Finish.STOPPED else Thread.sleep(1)
        return Finish.STOP_TOKEN
    }

    override fun stop() {
        stop = true
    }

    override fun reset() = Unit

    override fun close() {
        closed = true
    }
}

class ChatModelTest {
    private val worker = Executors.newSingleThreadExecutor().asCoroutineDispatcher()
    private val scope = CoroutineScope(SupervisorJob())
    private val home = File(Vectors.copy(Vectors.bundle).parentFile, "shelf").apply { mkdirs() }
    private val engines = mutableListOf<Parrot>()
    private val model = ChatModel(scope, worker, Shelf(listOf(home))) { _, _ -> Parrot().also { engines += it } }

    @AfterTest
    fun close() = worker.close()

    private fun done(job: Job) = runBlocking { withTimeout(20_000) { job.join() } }

    private fun put(name: String) = Vectors.bundle.copyRecursively(File(home, name))

    private fun answers() = model.state.value.messages.filter { !it.mine }.map { it.text }

    @Test
    fun `a bundle is chosen, asked, and switched`() {
        put("everyone")
        done(model.refresh())
        assertEquals("maud, int4, 0 MB, onnxruntime-genai", model.state.value.choices.single().detail)
        assertFalse(model.state.value.canSend)
        done(model.open("everyone"))
        assertEquals(listOf("maud"), model.state.value.people)
        assertTrue(model.state.value.canSend)
        done(model.send(" Hello. "))
        done(model.choose("maud"))
        done(model.send("Hello."))
        assertEquals(listOf("base: <s>Hello.</s>\n", "maud: <s>Hello.</s>\n"), answers())
        assertEquals(listOf(null, "maud"), model.state.value.messages.filter { !it.mine }.map { it.person })
        assertTrue(model.state.value.messages.last().firstSeconds!! >= 0)
        assertNull(model.state.value.work)
    }

    @Test
    fun `everybody is asked the same, and the chosen person stays`() {
        put("everyone")
        done(model.open("everyone"))
        done(model.choose("maud"))
        done(model.askEverybody("Well?"))
        assertEquals(listOf("base: <s>Well?</s>\n", "maud: <s>Well?</s>\n"), answers())
        assertEquals("maud", engines.single().person)
    }

    @Test
    fun `stopping ends this answer and those to follow`() {
        put("everyone")
        done(model.open("everyone"))
        engines.single().endless = true
        val job = model.askEverybody("Well?")
        engines.single().begun.await()
        model.stop()
        done(job)
        assertEquals(1, answers().size)
        assertEquals("stopped", model.state.value.messages.last().ended)
    }

    @Test
    fun `a broken bundle is refused with the reason`() {
        put("broken")
        File(home, "broken/model.onnx").writeText("other!")
        done(model.open("broken"))
        assertContains(model.state.value.problem!!, "was altered")
        assertNull(model.state.value.bundle)
        done(model.send("Hello."))
        assertContains(model.state.value.problem!!, "Choose a bundle first")
        model.dismiss()
        assertNull(model.state.value.problem)
    }

    @Test
    fun `a bundle is taken in, or leaves nothing`() {
        fun source(folder: File) = object : BundleSource {
            override val name = "new"
            override fun open(path: String) = File(folder, path).inputStream()
        }
        done(model.take(source(File("/nowhere"))))
        assertTrue(model.state.value.problem != null && home.list()!!.isEmpty())
        done(model.take(source(Vectors.bundle)))
        assertEquals(listOf("new"), model.state.value.choices.map { it.name })
    }

    @Test
    fun `memory is given back and taken again with the same person`() {
        put("everyone")
        done(model.open("everyone"))
        done(model.choose("maud"))
        done(model.release())
        assertTrue(engines.single().closed)
        done(model.send("Hello."))
        assertEquals(listOf("maud: <s>Hello.</s>\n"), answers())
        assertEquals(2, engines.size)
    }

    @Test
    fun `what the runtime says is on the screen`() {
        put("everyone")
        done(model.open("everyone"))
        done(model.send("fail"))
        assertEquals("the runtime says no", model.state.value.problem)
        done(model.send("  "))
        assertTrue(model.state.value.canSend)
    }

    @Test
    fun `an ended process goes on where it was`() {
        put("everyone")
        done(model.open("everyone"))
        done(model.choose("maud"))
        done(model.send("Hello."))
        val kept = Remembered.of(model.remember().toJson())!!
        val next = ChatModel(scope, worker, Shelf(listOf(home))) { _, _ -> Parrot() }
        next.restore(kept)
        val until = System.nanoTime() + 20_000_000_000
        while (next.state.value.person != "maud" && System.nanoTime() < until) Thread.sleep(5)
        assertEquals("maud", next.state.value.person)
        assertEquals(model.state.value.messages, next.state.value.messages)
        val long = List(ChatModel.KEPT_MESSAGES + 5) { Message(mine = true, text = "$it") }
        next.restore(Remembered(null, null, long))
        assertEquals(long.drop(5), next.remember().messages)
        assertNull(Remembered.of("{"))
        assertNull(Remembered.of(null))
    }

    @Test
    fun `a summary has a line for everything that is known`() {
        val lines = SummaryText.lines(
            Summary("repeat 1 of 5", 0.25, 200.0, mapOf(0 to 40.0, 256 to 35.5), mapOf("cold" to 1.5), 200_000_000, 300_000_000, 2),
        ).toMap()
        assertEquals("0.250 s", lines["Time to first token"])
        assertEquals("35.5 tokens/s", lines["Decode at depth 256"])
        assertEquals("200 MB", lines["Memory (PSS)"])
        assertEquals("moderate", lines["Thermal status"])
        assertEquals(listOf("Step" to "done"), SummaryText.lines(Summary(done = true)))
    }
}
