package org.edgeplm.demo.ui

import android.app.Application
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.SavedStateHandle
import androidx.lifecycle.viewModelScope
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.flow.launchIn
import kotlinx.coroutines.flow.onEach
import org.edgeplm.demo.core.ChatModel
import org.edgeplm.demo.core.Remembered
import org.edgeplm.demo.phone.Storage
import org.edgeplm.engine.Engines
import java.util.concurrent.Executors

/**
 * Keeps the [ChatModel] over rotation, and what was said over the end of the process. Nothing else: what the model
 * does is tested without Android.
 */
class ChatViewModel(application: Application, private val saved: SavedStateHandle) : AndroidViewModel(application) {
    private val worker = Executors.newSingleThreadExecutor { Thread(it, "engine") }.asCoroutineDispatcher()
    private val storage = Storage(application).apply { prepare() }

    val model = ChatModel(viewModelScope, worker, storage.shelf) { folder, manifest -> Engines.chat(folder, manifest) }

    init {
        Remembered.of(saved.get<String>(KEPT))?.let(model::restore)
        model.refresh()
        model.state
            .onEach { if (it.work == null) saved[KEPT] = model.remember().toJson() }
            .launchIn(viewModelScope)
    }

    override fun onCleared() {
        model.stop()
        // The scope has ended, so the engine is closed behind the last call, on its own thread.
        worker.executor.execute { model.closeNow() }
        worker.close()
    }

    private companion object {
        const val KEPT = "kept"
    }
}
