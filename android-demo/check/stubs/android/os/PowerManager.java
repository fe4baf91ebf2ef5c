package android.os;

/** What the app uses of API 29's class; the platform to compile against is API 23's. */
public final class PowerManager {
    public static final int THERMAL_STATUS_NONE = 0;

    PowerManager() {}

    public native int getCurrentThermalStatus();
}
