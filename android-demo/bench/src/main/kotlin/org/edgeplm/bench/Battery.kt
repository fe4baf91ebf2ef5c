package org.edgeplm.bench

import kotlin.math.abs
import kotlin.math.round

/** What Android's BatteryManager tells, in the words of `runtimes/battery.py`. */
object Battery {
    private const val CHARGING = "Charging"
    private val STATUS = mapOf(2 to CHARGING, 3 to "Discharging", 4 to "Not charging", 5 to "Full")

    /**
     * Level in percent, status, charging or not, volts, amperes, degrees Celsius; null without a level.
     *
     * [plugged] is not 0 on external power, [tenths] are of a degree. Amperes are a magnitude: phones disagree on the
     * sign, and some count in milliamperes.
     */
    fun reading(
        level: Int?,
        scale: Int?,
        status: Int?,
        plugged: Int?,
        tenths: Int?,
        millivolts: Int?,
        microamperes: Int?,
    ): Map<String, Any?>? {
        if (level == null) return null
        val named = STATUS[status]
        return mapOf(
            "level" to round(100.0 * level / (scale?.takeIf { it > 0 } ?: 100)).toInt(),
            "status" to named,
            "charging" to ((plugged ?: 0) != 0 || named == CHARGING),
            "volts" to millivolts?.takeIf { it > 0 }?.let { it / 1000.0 },
            "amperes" to microamperes?.let { abs(it) / 1e6 },
            "celsius" to tenths?.let { it / 10.0 },
        )
    }
}
