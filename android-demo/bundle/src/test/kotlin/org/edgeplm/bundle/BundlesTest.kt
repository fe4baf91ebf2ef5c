package org.edgeplm.bundle

import java.io.File
import java.nio.file.Files
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertNotNull
import kotlin.test.assertTrue

class BundlesTest {
    @Test
    fun `every shared vector is read or refused with its reason`() {
        val cases = Vectors.cases("manifest.json")
        assertTrue(cases.size > 80)
        val wrong = cases.mapNotNull { case ->
            val bundle = Vectors.copy(Vectors.bundle)
            Vectors.damage(bundle, case)
            val expected = case.get("refused").takeIf { !it.isJsonNull }?.asString
            val found = try {
                Bundles.open(bundle)
                null
            } catch (error: BundleException) {
                error.message
            }
            val right = if (expected == null) found == null else found != null && expected in found
            if (right) null else "${case.get("name").asString}: expected $expected, found $found"
        }
        assertEquals(emptyList(), wrong)
    }

    @Test
    fun `a manifest has all its fields`() {
        val manifest = Bundles.open(Vectors.bundle)
        assertEquals("maud", manifest.name)
        assertEquals(RuntimeInfo("onnxruntime-genai", "0.18.0", mapOf("onnx" to "1.23.0")), manifest.runtime)
        assertEquals(Tokens(384, listOf(1, 2), 0, null, listOf("<end>", "</s>")), manifest.tokens)
        assertEquals(listOf("1", "2"), manifest.task?.labels)
        assertEquals("adapters/maud.onnx_adapter", manifest.attached.single().file)
        assertEquals(ChatForm("<s>", "</s>\n", trim = true), manifest.chatForm)
        assertEquals(listOf(1.5, -2.25), manifest.golden.single().topLogits)
        assertEquals(0.75, manifest.provenance?.syntheticShare)
        assertEquals(manifest.files.sumOf { File(Vectors.bundle, it.path).length() }, manifest.totalBytes)
    }

    @Test
    fun `a link that leaves the folder is refused`() {
        val bundle = Vectors.copy(Vectors.bundle)
        val secret = File(bundle.parentFile, "secret.json").apply { writeText("{}") }
        val config = File(bundle, "genai_config.json").apply { delete() }
        Files.createSymbolicLink(config.toPath(), secret.toPath())
        val error = assertFailsWith<BundleException> { Bundles.open(bundle) }
        assertTrue("leaves the bundle's folder" in error.message!!)
    }

    @Test
    fun `an error says what and where and how to mend it`() {
        val error = assertFailsWith<BundleException> { Bundles.open(File("no/such/folder")) }
        assertEquals("no such folder", error.what)
        assertTrue(error.where.isNotEmpty() && error.mend.isNotEmpty())
    }

    @Test
    fun `progress reaches the whole size`() {
        var done = 0L
        val manifest = Bundles.open(Vectors.bundle) { assertTrue(it >= done); done = it }
        assertEquals(manifest.totalBytes, done)
    }

    @Test
    fun `bundles of the Python exporters open, and a changed byte in any file does not`() {
        val made = System.getProperty("edgeplm.bundles") ?: return println("no exported bundles given: skipped")
        val bundles = File(made).listFiles()!!.filter { it.isDirectory && !it.name.startsWith(".") }
        assertEquals(setOf("executorch", "onnx"), bundles.map { it.name }.toSet())
        for (bundle in bundles) {
            val manifest = Bundles.open(bundle)
            assertNotNull(manifest.chatForm)
            assertEquals(manifest.tokens.stop.size, manifest.tokens.stopTexts.size)
            assertTrue(manifest.golden.isNotEmpty() && manifest.attached.isNotEmpty())
            val copy = Vectors.copy(bundle)
            for (entry in manifest.files) {
                val file = File(copy, entry.path)
                val whole = file.readBytes()
                file.writeBytes(whole.copyOf().apply { this[size / 2] = (this[size / 2] + 1).toByte() })
                val error = assertFailsWith<BundleException>(entry.path) { Bundles.verify(copy, manifest) }
                assertTrue("was altered" in error.message!!)
                file.writeBytes(whole)
            }
            Bundles.open(copy)
        }
    }
}

class ShelfTest {
    private class Folder(private val folder: File, override val name: String) : BundleSource {
        override fun open(path: String) = File(folder, path).inputStream()
    }

    private fun home() = File(Vectors.copy(Vectors.bundle).parentFile, "shelf").apply { mkdirs() }

    @Test
    fun `a bundle is taken in whole and listed`() {
        val shelf = Shelf(listOf(home()))
        val told = mutableListOf<Long>()
        val folder = shelf.take(Folder(Vectors.bundle, "maud")) { done, total -> told += done; assertTrue(done <= total) }
        assertEquals("maud", Bundles.open(folder).name)
        assertEquals(listOf("maud"), shelf.entries().map { it.folder.name })
        assertEquals(Bundles.open(folder).totalBytes, told.last())
        assertEquals(folder, shelf.find("maud"))
        shelf.take(Folder(Vectors.bundle, "maud"))
        assertEquals(listOf("maud"), folder.parentFile.list()!!.toList())
    }

    @Test
    fun `a broken one leaves nothing behind and spares the old one`() {
        val home = home()
        val shelf = Shelf(listOf(home))
        shelf.take(Folder(Vectors.bundle, "maud"))
        val broken = Vectors.copy(Vectors.bundle)
        File(broken, "model.onnx").appendText("x")
        assertFailsWith<BundleException> { shelf.take(Folder(broken, "maud")) }
        File(broken, "model.onnx").delete()
        assertFailsWith<java.io.IOException> { shelf.take(Folder(broken, "maud")) }
        assertEquals(listOf("maud"), home.list()!!.toList())
        Bundles.open(File(home, "maud"))
    }

    @Test
    fun `a name never leads out of the shelf`() {
        val home = home()
        val folder = Shelf(listOf(home)).take(Folder(Vectors.bundle, "../../x"))
        assertEquals(home, folder.parentFile)
        for (name in listOf("../bundle", "", ".", "/etc", "a/b", "nobody")) {
            assertTrue("there is no bundle" in assertFailsWith<BundleException> { Shelf(listOf(home)).find(name) }.message!!)
        }
    }

    @Test
    fun `one with a problem is listed with the reason`() {
        val home = home()
        Vectors.bundle.copyRecursively(File(home, "good"))
        File(home, "empty").mkdirs()
        File(home, ".x.incoming").mkdirs()
        val other = File(home.parentFile, "other").apply { File(this, "good").mkdirs() }
        val entries = Shelf(listOf(home, other)).entries()
        assertEquals(listOf("empty", "good"), entries.map { it.folder.name })
        assertTrue("is no bundle" in entries[0].problem!!)
        assertFalse(entries[1].manifest == null)
    }
}
