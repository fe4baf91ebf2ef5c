@file:Suppress("unused", "UNUSED_PARAMETER", "UnusedReceiverParameter")

package androidx.compose.foundation

import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier

class ScrollState

@Composable
fun rememberScrollState(): ScrollState = TODO()

fun Modifier.horizontalScroll(state: ScrollState): Modifier = this

@Composable
fun isSystemInDarkTheme(): Boolean = TODO()
