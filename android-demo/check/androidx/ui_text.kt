package androidx.compose.ui.text.style

enum class TextOverflow { Clip, Ellipsis }
