package org.edgeplm.demo.ui

import android.content.ComponentCallbacks2
import android.content.Intent
import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.compose.setContent
import androidx.activity.enableEdgeToEdge
import androidx.activity.result.contract.ActivityResultContracts
import androidx.activity.viewModels
import androidx.compose.foundation.isSystemInDarkTheme
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.darkColorScheme
import androidx.compose.material3.lightColorScheme
import androidx.compose.runtime.getValue
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import org.edgeplm.demo.phone.BenchActivity
import org.edgeplm.demo.phone.TreeSource

/** The only screen of the app besides the benchmark: bundles until one is open, then the chat. */
class MainActivity : ComponentActivity() {
    private val views: ChatViewModel by viewModels()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        enableEdgeToEdge()
        setContent {
            val state by views.model.state.collectAsStateWithLifecycle()
            val pick = rememberLauncherForActivityResult(ActivityResultContracts.OpenDocumentTree()) { tree ->
                tree?.let { views.model.take(TreeSource(contentResolver, it)) }
            }
            MaterialTheme(colorScheme = if (isSystemInDarkTheme()) darkColorScheme() else lightColorScheme()) {
                DemoScreen(
                    state = state,
                    actions = DemoActions(
                        refresh = { views.model.refresh() },
                        pick = { pick.launch(null) },
                        open = { views.model.open(it) },
                        leave = { views.model.leave() },
                        choose = { views.model.choose(it) },
                        send = { views.model.send(it) },
                        askEverybody = { views.model.askEverybody(it) },
                        stop = { views.model.stop() },
                        dismiss = { views.model.dismiss() },
                        benchmark = ::benchmark,
                    ),
                )
            }
        }
    }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        // Out of sight, the model is the largest thing that the system could want back. It is loaded again when asked.
        if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) views.model.release()
    }

    /** The benchmark has a process and the memory for itself. */
    private fun benchmark(bundle: String) {
        views.model.leave()
        val plan = """{"bundle": ${com.google.gson.JsonPrimitive(bundle)}, "settle_seconds": 60}"""
        startActivity(
            Intent(this, BenchActivity::class.java).putExtra("plan", plan).putExtra("result", "$bundle.jsonl"),
        )
    }
}
