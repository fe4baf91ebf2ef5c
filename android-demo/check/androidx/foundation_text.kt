@file:Suppress("unused", "UNUSED_PARAMETER")

package androidx.compose.foundation.text.selection

import androidx.compose.runtime.Composable

@Composable
fun SelectionContainer(content: @Composable () -> Unit) = Unit
