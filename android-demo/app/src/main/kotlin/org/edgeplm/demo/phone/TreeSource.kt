package org.edgeplm.demo.phone

import android.content.ContentResolver
import android.net.Uri
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import org.edgeplm.bundle.BundleSource
import java.io.FileNotFoundException
import java.io.InputStream

/** A folder that the user chose with Android's file picker (ACTION_OPEN_DOCUMENT_TREE). */
class TreeSource(private val resolver: ContentResolver, private val tree: Uri) : BundleSource {
    private val root = DocumentsContract.getTreeDocumentId(tree)

    override val name: String by lazy {
        val folder = DocumentsContract.buildDocumentUriUsingTree(tree, root)
        query(folder).firstOrNull()?.second ?: "bundle"
    }

    override fun open(path: String): InputStream {
        var id = root
        for (part in path.split('/').filter { it.isNotEmpty() && it != "." }) {
            val children = DocumentsContract.buildChildDocumentsUriUsingTree(tree, id)
            id = query(children).firstOrNull { (_, name) -> name == part }?.first
                ?: throw FileNotFoundException("$name: $path is missing in the chosen folder")
        }
        return resolver.openInputStream(DocumentsContract.buildDocumentUriUsingTree(tree, id))
            ?: throw FileNotFoundException("$name: $path cannot be read")
    }

    /** Ids and names of the documents that [uri] stands for. */
    private fun query(uri: Uri): List<Pair<String, String>> {
        val columns = arrayOf(Document.COLUMN_DOCUMENT_ID, Document.COLUMN_DISPLAY_NAME)
        return resolver.query(uri, columns, null, null, null)?.use { rows ->
            generateSequence { if (rows.moveToNext()) rows.getString(0) to rows.getString(1) else null }.toList()
        }.orEmpty()
    }
}
