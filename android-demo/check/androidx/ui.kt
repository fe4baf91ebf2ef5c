package androidx.compose.ui

interface Modifier {
    companion object : Modifier
}

interface Alignment {
    companion object {
        val CenterStart: Alignment = object : Alignment {}
        val CenterEnd: Alignment = object : Alignment {}
    }
}
