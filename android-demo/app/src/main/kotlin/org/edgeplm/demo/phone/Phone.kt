package org.edgeplm.demo.phone

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import org.edgeplm.bench.Battery
import org.edgeplm.bench.Machine

/** This phone for the agent: what /proc and /sys tell an app, and what Android's own API adds. */
object Phone {
    private const val THERMAL_API = 29

    fun machine(context: Context): Machine {
        val power = context.getSystemService(Context.POWER_SERVICE) as PowerManager
        return Machine(
            described = mapOf(
                "board" to "${Build.MANUFACTURER} ${Build.MODEL}",
                "cpu" to "${Build.HARDWARE} ${Build.BOARD}",
                "os" to "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})",
            ),
            also = { mapOf("thermal_status" to thermalStatus(power), "battery" to battery(context)) },
        )
    }

    /** `PowerManager.THERMAL_STATUS_*`: 0 none, 2 and more throttled; null before Android 10. */
    private fun thermalStatus(power: PowerManager): Int? =
        if (Build.VERSION.SDK_INT >= THERMAL_API) power.currentThermalStatus else null

    private fun battery(context: Context): Map<String, Any?>? {
        val manager = context.getSystemService(Context.BATTERY_SERVICE) as BatteryManager
        val last: Intent? = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        fun told(name: String) = last?.getIntExtra(name, Int.MIN_VALUE)?.takeIf { it != Int.MIN_VALUE }
        return Battery.reading(
            level = told(BatteryManager.EXTRA_LEVEL),
            scale = told(BatteryManager.EXTRA_SCALE),
            status = told(BatteryManager.EXTRA_STATUS),
            plugged = told(BatteryManager.EXTRA_PLUGGED),
            tenths = told(BatteryManager.EXTRA_TEMPERATURE),
            millivolts = told(BatteryManager.EXTRA_VOLTAGE),
            // Where a phone cannot tell, it says 0 or the smallest number there is.
            microamperes = manager.getIntProperty(BatteryManager.BATTERY_PROPERTY_CURRENT_NOW)
                .takeIf { it != Int.MIN_VALUE && it != 0 },
        )
    }
}
