@file:Suppress("unused", "UNUSED_PARAMETER", "ktlint:standard:function-naming")

package androidx.compose.foundation.shape

import androidx.compose.ui.graphics.Shape
import androidx.compose.ui.unit.Dp

class RoundedCornerShape : Shape

fun RoundedCornerShape(size: Dp): RoundedCornerShape = RoundedCornerShape()
