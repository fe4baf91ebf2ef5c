package org.edgeplm.demo.phone

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.os.Handler
import android.os.Looper
import android.os.Process
import android.view.WindowManager
import android.widget.ScrollView
import android.widget.TextView
import org.edgeplm.demo.core.SummaryText

/**
 * Runs a benchmark and shows it. Started by the app's own button, or from the host:
 *
 *     adb shell am start -S -W -n org.edgeplm.demo/.phone.BenchActivity --es plan PLAN --es result NAME
 *
 * PLAN is the agent's plan, JSON or the name of a file in the app's `plans`; the samples go to `results/NAME`. With
 * `--ez private true` both lie in the app's own folder, which `run-as` reaches in a debug build, not on shared storage.
 * It has a process of its own, which ends when the screen is left. In the manifest it asks for the permission
 * DUMP, which adb's shell has and other apps cannot have.
 */
class BenchActivity : Activity() {
    private val handler = Handler(Looper.getMainLooper())
    private val show = object : Runnable {
        override fun run() {
            update()
            handler.postDelayed(this, REFRESH_MS)
        }
    }
    private lateinit var text: TextView
    private var notice = ""

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        // A dark screen would let the system slow the processor down.
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        val padding = (PADDING_DP * resources.displayMetrics.density).toInt()
        text = TextView(this).apply { setPadding(padding, padding, padding, padding) }
        setContentView(ScrollView(this).apply { fitsSystemWindows = true; addView(text) })
        title = "EdgePLM benchmark"
        val plan = intent.getStringExtra("plan")
        if (plan == null) {
            text.text = "No plan was given: add --es plan with the plan's JSON or the name of its file"
            return
        }
        val version = packageManager.getPackageInfo(packageName, 0).versionName ?: "unknown"
        val result = intent.getStringExtra("result") ?: USUAL_RESULT
        BenchRun.start(applicationContext, plan, result, intent.getBooleanExtra("private", false), version)
    }

    /** A process runs one benchmark: a second one is asked for while this one is still on the screen. */
    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        notice = "\n\nAnother run was asked for. Go back first, or from the host: am start -S"
    }

    override fun onResume() {
        super.onResume()
        show.run()
    }

    override fun onPause() {
        handler.removeCallbacks(show)
        super.onPause()
    }

    override fun onDestroy() {
        super.onDestroy()
        // The next run needs a fresh process; while one is under way it goes on behind other screens.
        if (isFinishing && BenchRun.summary?.done != false) Process.killProcess(Process.myPid())
    }

    private fun update() {
        val summary = BenchRun.summary ?: return
        text.text = SummaryText.lines(summary).joinToString("\n") { (what, value) -> "$what: $value" } + notice
    }

    companion object {
        const val USUAL_RESULT = "result.jsonl"
        private const val REFRESH_MS = 500L
        private const val PADDING_DP = 16
    }
}
