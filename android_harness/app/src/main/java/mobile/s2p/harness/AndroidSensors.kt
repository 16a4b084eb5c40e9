package mobile.s2p.harness

import android.app.KeyguardManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import java.util.concurrent.atomic.AtomicBoolean
import mobile.s2p.bench.Sensors

/** Thermal and battery services of Android, and whether the app stayed in front of an unlocked screen. */
class AndroidSensors(private val context: Context) : Sensors {
    private val power = context.getSystemService(PowerManager::class.java)
    private val battery = context.getSystemService(BatteryManager::class.java)
    private val keyguard = context.getSystemService(KeyguardManager::class.java)
    private val inFront = AtomicBoolean(true)
    private val wasAway = AtomicBoolean(false)

    /** The activity tells when it comes to the front and when it leaves. */
    fun activityInFront(front: Boolean) {
        inFront.set(front)
        if (!front) wasAway.set(true)
    }

    override fun foreground(): Int = if (inFront.get() && !wasAway.getAndSet(false)) 1 else 0

    override fun unlocked(): Int = if (keyguard.isKeyguardLocked || !power.isInteractive) 0 else 1

    override fun thermalStatus(): Int =
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) power.currentThermalStatus else -1

    override fun thermalHeadroom(): Double =
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.R) power.getThermalHeadroom(0).toDouble() else Double.NaN

    override fun batteryCurrent(): Double {
        val current = battery.getIntProperty(BatteryManager.BATTERY_PROPERTY_CURRENT_NOW)
        return if (current == 0 || current == Int.MIN_VALUE) Double.NaN else current.toDouble()
    }

    override fun batteryMillivolts(): Double {
        val millivolts = status()?.getIntExtra(BatteryManager.EXTRA_VOLTAGE, 0) ?: 0
        return if (millivolts > 0) millivolts.toDouble() else Double.NaN
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
