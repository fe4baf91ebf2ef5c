package org.edgeplm.demo.phone

import android.content.Context
import org.edgeplm.bench.Agent
import org.edgeplm.bench.Plan
import org.edgeplm.bench.PlanException
import org.edgeplm.bench.ResultFile
import org.edgeplm.bench.Samples
import org.edgeplm.bench.Summary
import org.edgeplm.bench.Summing
import org.edgeplm.bundle.Bundles
import org.edgeplm.engine.Engines
import java.io.File
import java.io.IOException
import kotlin.concurrent.thread

/**
 * The benchmark of this process. It belongs to no activity, so that it outlives rotation; a process runs one, and
 * ends after it, so that every run loads cold and has its own peak memory.
 */
object BenchRun {
    @Volatile
    var summary: Summary? = null
        private set

    /**
     * Starts the run unless there was one; [plan] is JSON, or the name of a file in the app's folder `plans`.
     * [private] says that plan and result lie in the app's own folders, not in those on shared storage.
     */
    @Synchronized
    fun start(context: Context, plan: String, result: String, private: Boolean, version: String) {
        if (summary != null) return
        summary = Summary(step = "start")
        val storage = Storage(context)
        thread(name = "benchmark") {
            try {
                ResultFile(File(storage.results(private), plainName(result))).use { file ->
                    val summing = Summing()
                    val samples = Samples(file.writer) { summary = summing.add(it) }
                    run(context, storage, { text(storage.plans(private), plan) }, version, samples)
                }
            } catch (problem: IOException) { // no result can be written, so the screen alone tells
                summary = Summary(problem = problem.message, done = true)
            } catch (problem: PlanException) {
                summary = Summary(problem = problem.message, done = true)
            }
        }
    }

    private fun run(context: Context, storage: Storage, plan: () -> String, version: String, samples: Samples) {
        val size = { wanted: Plan -> storage.shelf.find(wanted.bundle).walk().filter { it.isFile }.sumOf { it.length() } }
        val agent = Agent(Phone.machine(context), mapOf("android-demo" to version), size) { wanted ->
            val folder = storage.shelf.find(wanted.bundle)
            val manifest = Bundles.readManifest(folder).also { Bundles.verify(folder, it, hashes = false) }
            Engines.tokens(folder, manifest, wanted.threads)
        }
        try {
            agent.run(plan(), samples)
        } catch (problem: PlanException) {
            samples.emit("error", mapOf("step" to samples.step, "message" to problem.message))
        }
    }

    private fun text(plans: File, plan: String): String {
        if (plan.trimStart().startsWith("{")) return plan
        return try {
            File(plans, plainName(plan)).readText()
        } catch (problem: IOException) {
            throw PlanException("cannot be read (${problem.message})")
        }
    }

    /** A file's name, never a path. */
    private fun plainName(name: String): String {
        if (name.isEmpty() || name.startsWith(".") || '/' in name) throw PlanException("'$name' is not a file's name")
        return name
    }
}
