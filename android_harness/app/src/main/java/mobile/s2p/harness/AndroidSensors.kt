package mobile.s2p.harness

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import kotlin.math.abs

/** Thermal and battery services of Android. */
class AndroidSensors(private val context: Context) : Sensors {
    private val power = context.getSystemService(PowerManager::class.java)
    private val battery = context.getSystemService(BatteryManager::class.java)

    /** The latest headroom that the core asked for: Android answers at most once a second, so the plot must not ask too. */
    @Volatile
    var latestHeadroom = Double.NaN
        private set

    override fun thermalStatus(): Int =
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) power.currentThermalStatus else -1

    override fun thermalHeadroom(): Double {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.R) return Double.NaN
        latestHeadroom = power.getThermalHeadroom(0).toDouble()
        return latestHeadroom
    }

    override fun milliwatts(): Double {
        val microamperes = battery.getIntProperty(BatteryManager.BATTERY_PROPERTY_CURRENT_NOW)
        val millivolts = status()?.getIntExtra(BatteryManager.EXTRA_VOLTAGE, 0) ?: 0
        val known = microamperes != 0 && microamperes != Int.MIN_VALUE && millivolts > 0 && unplugged() == 1
        return if (known) abs(microamperes.toDouble()) * millivolts / 1e6 else Double.NaN
    }

    override fun batteryLevel(): Double {
        val percent = battery.getIntProperty(BatteryManager.BATTERY_PROPERTY_CAPACITY)
        return if (percent in 0..100) percent / 100.0 else Double.NaN
    }

    override fun unplugged(): Int = when (status()?.getIntExtra(BatteryManager.EXTRA_PLUGGED, -1) ?: -1) {
        -1 -> -1
        0 -> 1
        else -> 0
    }

    override fun lowPowerModeOff(): Int = if (power.isPowerSaveMode) 0 else 1

    private fun status(): Intent? = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
}
