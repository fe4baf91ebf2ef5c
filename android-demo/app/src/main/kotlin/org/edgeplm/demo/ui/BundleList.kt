package org.edgeplm.demo.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.dp
import org.edgeplm.demo.core.ChatState
import org.edgeplm.demo.core.Choice

/** The bundles on this phone, each to chat with or to measure, and a way to bring another one. */
@Composable
fun BundleList(state: ChatState, actions: DemoActions) {
    val idle = state.work == null
    LazyColumn(
        Modifier.fillMaxSize().padding(horizontal = 16.dp),
        verticalArrangement = Arrangement.spacedBy(12.dp),
    ) {
        item {
            if (state.choices.isEmpty() && idle) {
                Text("There is no bundle yet. Push one with adb, or choose the folder of one on this phone.")
            }
        }
        items(state.choices, key = { it.name }) { BundleCard(it, idle, actions) }
        item { Button(onClick = actions.pick, enabled = idle) { Text("Choose a folder") } }
    }
}

@Composable
private fun BundleCard(choice: Choice, idle: Boolean, actions: DemoActions) {
    Card(Modifier.fillMaxWidth()) {
        Column(Modifier.padding(16.dp)) {
            Text(choice.name, style = MaterialTheme.typography.titleMedium)
            val problem = choice.problem
            if (problem != null) {
                Text(problem, color = MaterialTheme.colorScheme.error, style = MaterialTheme.typography.bodySmall)
            } else {
                Text(choice.detail, style = MaterialTheme.typography.bodySmall)
                Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
                    TextButton(onClick = { actions.open(choice.name) }, enabled = idle) { Text("Chat") }
                    TextButton(onClick = { actions.benchmark(choice.name) }, enabled = idle) { Text("Benchmark") }
                }
            }
        }
    }
}
