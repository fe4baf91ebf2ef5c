@file:Suppress("unused", "UNUSED_PARAMETER")

package androidx.compose.material3

import androidx.compose.foundation.layout.ColumnScope
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.RowScope
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.Shape
import androidx.compose.ui.text.TextStyle
import androidx.compose.ui.text.style.TextOverflow

@RequiresOptIn
annotation class ExperimentalMaterial3Api

class ColorScheme {
    val primaryContainer = Color()
    val surfaceVariant = Color()
    val error = Color()
}

class Typography {
    val titleMedium = TextStyle()
    val bodySmall = TextStyle()
    val labelMedium = TextStyle()
    val labelSmall = TextStyle()
}

object MaterialTheme {
    val colorScheme: ColorScheme @Composable get() = TODO()
    val typography: Typography @Composable get() = TODO()
}

fun lightColorScheme(): ColorScheme = ColorScheme()

fun darkColorScheme(): ColorScheme = ColorScheme()

enum class SnackbarDuration { Short, Long, Indefinite }

class SnackbarHostState {
    suspend fun showSnackbar(
        message: String,
        actionLabel: String? = null,
        withDismissAction: Boolean = false,
        duration: SnackbarDuration = SnackbarDuration.Short,
    ) = Unit
}

@Composable
fun MaterialTheme(colorScheme: ColorScheme, content: @Composable () -> Unit) = Unit

@Composable
fun SnackbarHost(hostState: SnackbarHostState) = Unit

@Composable
fun Scaffold(
    topBar: @Composable () -> Unit = {},
    snackbarHost: @Composable () -> Unit = {},
    content: @Composable (PaddingValues) -> Unit,
) = Unit

@ExperimentalMaterial3Api
@Composable
fun TopAppBar(title: @Composable () -> Unit, actions: @Composable RowScope.() -> Unit = {}) = Unit

@Composable
fun Text(
    text: String,
    modifier: Modifier = Modifier,
    color: Color = Color(),
    overflow: TextOverflow = TextOverflow.Clip,
    maxLines: Int = Int.MAX_VALUE,
    style: TextStyle = TextStyle(),
) = Unit

@Composable
fun Button(onClick: () -> Unit, enabled: Boolean = true, content: @Composable RowScope.() -> Unit) = Unit

@Composable
fun OutlinedButton(onClick: () -> Unit, enabled: Boolean = true, content: @Composable RowScope.() -> Unit) = Unit

@Composable
fun TextButton(onClick: () -> Unit, enabled: Boolean = true, content: @Composable RowScope.() -> Unit) = Unit

@Composable
fun FilterChip(selected: Boolean, onClick: () -> Unit, label: @Composable () -> Unit, enabled: Boolean = true) = Unit

@Composable
fun OutlinedTextField(
    value: String,
    onValueChange: (String) -> Unit,
    modifier: Modifier = Modifier,
    label: (@Composable () -> Unit)? = null,
    maxLines: Int = Int.MAX_VALUE,
) = Unit

@Composable
fun LinearProgressIndicator(modifier: Modifier = Modifier) = Unit

@Composable
fun LinearProgressIndicator(progress: () -> Float, modifier: Modifier = Modifier) = Unit

@Composable
fun Card(modifier: Modifier = Modifier, content: @Composable ColumnScope.() -> Unit) = Unit

@Composable
fun Surface(
    modifier: Modifier = Modifier,
    shape: Shape? = null,
    color: Color = Color(),
    content: @Composable () -> Unit,
) = Unit
