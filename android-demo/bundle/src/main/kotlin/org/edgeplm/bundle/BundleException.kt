package org.edgeplm.bundle

import java.io.IOException

/** A bundle that cannot be used: what is wrong, where, and how to mend it. */
class BundleException(val what: String, val where: String, val mend: String) :
    IOException("$where: $what. $mend")
