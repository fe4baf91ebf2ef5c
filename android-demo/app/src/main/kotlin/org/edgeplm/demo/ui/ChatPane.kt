package org.edgeplm.demo.ui

import androidx.compose.foundation.horizontalScroll
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.widthIn
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.foundation.lazy.rememberLazyListState
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.shape.RoundedCornerShape
import androidx.compose.foundation.text.selection.SelectionContainer
import androidx.compose.material3.Button
import androidx.compose.material3.FilterChip
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Surface
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.LaunchedEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.tooling.preview.Preview
import androidx.compose.ui.unit.dp
import org.edgeplm.demo.core.ChatState
import org.edgeplm.demo.core.Message

/** What was said, who answers, and where to write. */
@Composable
fun ChatPane(state: ChatState, actions: DemoActions) {
    Column(Modifier.fillMaxSize().padding(horizontal = 16.dp)) {
        Text(state.about, style = MaterialTheme.typography.labelMedium)
        if (state.hasPeople) PeopleRow(state, actions)
        Messages(state.messages, state.hasPeople, Modifier.weight(1f))
        Composer(state, actions)
    }
}

@Composable
private fun PeopleRow(state: ChatState, actions: DemoActions) {
    Row(
        Modifier.horizontalScroll(rememberScrollState()),
        horizontalArrangement = Arrangement.spacedBy(8.dp),
    ) {
        for (person in listOf(null) + state.people) {
            FilterChip(
                selected = person == state.person,
                onClick = { actions.choose(person) },
                label = { Text(person ?: "the base") },
                enabled = state.work == null,
            )
        }
    }
}

@Composable
private fun Messages(messages: List<Message>, named: Boolean, modifier: Modifier) {
    val list = rememberLazyListState()
    // An answer grows while it is written: its end stays in sight.
    LaunchedEffect(messages.size, messages.lastOrNull()?.text?.length) {
        if (messages.isNotEmpty()) list.scrollToItem(messages.lastIndex, Int.MAX_VALUE / 2)
    }
    LazyColumn(modifier.fillMaxWidth(), state = list, verticalArrangement = Arrangement.spacedBy(8.dp)) {
        items(messages) { Bubble(it, named) }
    }
}

/** [named] says who answered: a bundle without attached people has one voice, the base or whoever is merged into it. */
@Composable
private fun Bubble(message: Message, named: Boolean) {
    val colours = MaterialTheme.colorScheme
    Box(Modifier.fillMaxWidth(), contentAlignment = if (message.mine) Alignment.CenterEnd else Alignment.CenterStart) {
        Surface(
            color = if (message.mine) colours.primaryContainer else colours.surfaceVariant,
            shape = RoundedCornerShape(12.dp),
            modifier = Modifier.widthIn(max = 320.dp),
        ) {
            Column(Modifier.padding(12.dp)) {
                if (!message.mine && named) {
                    Text(message.person ?: "the base", style = MaterialTheme.typography.labelSmall)
                }
                SelectionContainer { Text(message.text.ifEmpty { "…" }) }
                val first = message.firstSeconds?.let { "first text after %.2f s".format(it) }
                val below = listOfNotNull(first, message.ended).joinToString(", ")
                if (below.isNotEmpty()) Text(below, style = MaterialTheme.typography.labelSmall)
            }
        }
    }
}

@Composable
private fun Composer(state: ChatState, actions: DemoActions) {
    var text by rememberSaveable { mutableStateOf("") }
    fun use(action: (String) -> Unit) {
        action(text)
        text = ""
    }
    Column(Modifier.padding(vertical = 8.dp)) {
        OutlinedTextField(
            value = text,
            onValueChange = { text = it },
            label = { Text("A message; each is answered by itself") },
            maxLines = 5,
            modifier = Modifier.fillMaxWidth(),
        )
        Row(Modifier.padding(top = 8.dp), horizontalArrangement = Arrangement.spacedBy(8.dp)) {
            val ready = state.canSend && text.isNotBlank()
            if (state.work?.answering == true) {
                OutlinedButton(onClick = actions.stop) { Text("Stop") }
            } else {
                Button(onClick = { use(actions.send) }, enabled = ready) { Text("Send") }
            }
            if (state.hasPeople) {
                OutlinedButton(onClick = { use(actions.askEverybody) }, enabled = ready) { Text("Ask everybody") }
            }
        }
    }
}

@Preview
@Composable
private fun ChatPreview() = DemoScreen(
    ChatState(
        bundle = "everyone",
        about = "everyone, int8, 164 MB, executorch",
        people = listOf("bo", "maud"),
        person = "bo",
        messages = listOf(
            Message(mine = true, text = "Please tell them that the meeting has moved."),
            Message(mine = false, text = "meeting moved / see you then / ta", person = "bo", firstSeconds = 0.31),
        ),
    ),
    DemoActions(),
)
