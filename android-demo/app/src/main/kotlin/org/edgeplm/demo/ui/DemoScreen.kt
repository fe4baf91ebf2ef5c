package org.edgeplm.demo.ui

import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.imePadding
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Scaffold
import androidx.compose.material3.SnackbarDuration
import androidx.compose.material3.SnackbarHost
import androidx.compose.material3.SnackbarHostState
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.material3.TopAppBar
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.remember
import androidx.compose.ui.Modifier
import androidx.compose.ui.text.style.TextOverflow
import androidx.compose.ui.tooling.preview.Preview
import androidx.compose.ui.unit.dp
import org.edgeplm.demo.core.ChatState
import org.edgeplm.demo.core.Choice
import org.edgeplm.demo.core.Work

/** What the screen can ask for. */
data class DemoActions(
    val refresh: () -> Unit = {},
    val pick: () -> Unit = {},
    val open: (String) -> Unit = {},
    val leave: () -> Unit = {},
    val choose: (String?) -> Unit = {},
    val send: (String) -> Unit = {},
    val askEverybody: (String) -> Unit = {},
    val stop: () -> Unit = {},
    val dismiss: () -> Unit = {},
    val benchmark: (String) -> Unit = {},
)

/** Everything: a title, what is under way, and bundles or chat. */
@OptIn(ExperimentalMaterial3Api::class)
@Composable
fun DemoScreen(state: ChatState, actions: DemoActions) {
    val snackbar = remember { SnackbarHostState() }
    LaunchedEffect(state.problem) {
        state.problem?.let {
            snackbar.showSnackbar(it, withDismissAction = true, duration = SnackbarDuration.Indefinite)
            actions.dismiss()
        }
    }
    Scaffold(
        topBar = {
            TopAppBar(
                title = { Text(state.bundle ?: "EdgePLM demo", maxLines = 1, overflow = TextOverflow.Ellipsis) },
                actions = {
                    if (state.bundle == null) {
                        TextButton(onClick = actions.refresh, enabled = state.work == null) { Text("Look again") }
                    } else {
                        TextButton(onClick = actions.leave, enabled = state.work == null) { Text("Bundles") }
                    }
                },
            )
        },
        snackbarHost = { SnackbarHost(snackbar) },
    ) { inside ->
        Column(Modifier.padding(inside).fillMaxSize().imePadding()) {
            WorkLine(state.work)
            if (state.bundle == null) BundleList(state, actions) else ChatPane(state, actions)
        }
    }
}

@Composable
private fun WorkLine(work: Work?) {
    if (work == null || work.answering) return
    Column(Modifier.padding(horizontal = 16.dp, vertical = 8.dp)) {
        Text(work.label, style = MaterialTheme.typography.labelMedium)
        val fraction = work.fraction
        if (fraction == null) {
            LinearProgressIndicator(Modifier.fillMaxWidth())
        } else {
            LinearProgressIndicator(progress = { fraction }, modifier = Modifier.fillMaxWidth())
        }
    }
}

@Preview
@Composable
private fun BundlesPreview() = DemoScreen(
    ChatState(
        choices = listOf(
            Choice("bo", "bo, int4, 104 MB, executorch", null),
            Choice("maud", "", "model.pte: is missing. Copy or export the bundle again"),
        ),
        work = Work("Copying bo", 0.4f),
    ),
    DemoActions(),
)
