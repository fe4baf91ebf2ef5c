package org.edgeplm.bundle

import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class PromptTest {
    @Test
    fun `every shared vector is rendered as the template does`() {
        for (case in Vectors.cases("chat.json")) {
            val form = case.getAsJsonObject("form").let {
                ChatForm(it.get("prefix").asString, it.get("suffix").asString, it.get("trim").asBoolean)
            }
            for (prompt in case.getAsJsonArray("prompts").map { it.asJsonObject }) {
                assertEquals(prompt.get("text").asString, form.render(prompt.get("message").asString), case.get("name").asString)
            }
        }
    }

    @Test
    fun `the task's instruction goes around the text`() {
        val manifest = Bundles.readManifest(Vectors.bundle)
        assertEquals("<s>Hello.</s>\n", manifest.prompt(" Hello. "))
        val asked = manifest.copy(task = Task("t", "Rewrite: {input}!", emptyList(), null))
        assertEquals("<s>Rewrite: a {input} b!</s>\n", asked.prompt("a {input} b"))
    }

    @Test
    fun `without a chat form there is no prompt`() {
        assertFailsWith<BundleException> { Bundles.readManifest(Vectors.bundle).copy(chatForm = null).prompt("a") }
    }

    @Test
    fun `an answer ends where the shared vectors say`() {
        for (case in Vectors.cases("stop.json")) {
            val filter = StopFilter(case.getAsJsonArray("stops").map { it.asString })
            val pieces = case.getAsJsonArray("pieces").map { it.asString }
            val shown = pieces.joinToString("") { filter.push(it) } + filter.end()
            assertEquals(case.get("shown").asString, shown)
            assertEquals(case.get("stopped").asBoolean, filter.stopped)
        }
    }

    @Test
    fun `text that cannot begin a stop is shown at once`() {
        val filter = StopFilter(listOf("<|im_end|>"))
        assertEquals("Hello ", filter.push("Hello <"))
        assertEquals("<b", filter.push("b"))
    }
}
