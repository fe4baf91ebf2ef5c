@file:Suppress("unused", "UNUSED_PARAMETER", "UnusedReceiverParameter")

package androidx.activity

import androidx.lifecycle.ViewModel

open class ComponentActivity : android.app.Activity()

fun ComponentActivity.enableEdgeToEdge() = Unit

inline fun <reified VM : ViewModel> ComponentActivity.viewModels(): Lazy<VM> = TODO()
