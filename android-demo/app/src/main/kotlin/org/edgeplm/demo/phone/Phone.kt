package org.edgeplm.demo.phone

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
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

    /** Level in percent, charging or not, degrees Celsius, volts, and the current in amperes (its sign is the maker's). */
    private fun battery(context: Context): Map<String, Any?> {
        val manager = context.getSystemService(Context.BATTERY_SERVICE) as BatteryManager
        val last: Intent? = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        val now = manager.getIntProperty(BatteryManager.BATTERY_PROPERTY_CURRENT_NOW)
        fun told(name: String) = last?.getIntExtra(name, Int.MIN_VALUE)?.takeIf { it != Int.MIN_VALUE }
        return mapOf(
            "level" to manager.getIntProperty(BatteryManager.BATTERY_PROPERTY_CAPACITY).takeIf { it in 0..100 },
            "charging" to told(BatteryManager.EXTRA_PLUGGED)?.let { it != 0 },
            "celsius" to told(BatteryManager.EXTRA_TEMPERATURE)?.let { it / 10.0 },
            "volts" to told(BatteryManager.EXTRA_VOLTAGE)?.let { it / 1000.0 },
            "amperes" to now.takeIf { it != Int.MIN_VALUE && it != 0 }?.let { it / 1e6 },
        )
    }
}
