// What the library and the apps use of Android, as declarations; https://developer.android.com/reference has each class under its own
// name, for example .../android/graphics/Bitmap. A class begins with a line "// file NAME". Bitmap holds its pixels, so that tests can
// look at them on a desktop; s2p.sdk and s2p.soc say which phone that is, and Os.environment what was set.
// file android.R
public final class R { public static final class layout { public static final int simple_spinner_dropdown_item = 1; } }
// file android.app.Activity
public class Activity extends android.content.ContextWrapper {
    protected void onCreate(android.os.Bundle state) {}
    protected void onResume() {}
    protected void onPause() {}
    protected void onDestroy() {}
    public void setContentView(android.view.View view) {}
    public android.view.Window getWindow() { return null; }
    public android.content.Intent getIntent() { return null; }
    public static final int RESULT_OK = -1;
    public void startActivityForResult(android.content.Intent intent, int request) {}
    protected void onActivityResult(int request, int result, android.content.Intent data) {}
    public void finishAndRemoveTask() {}
}
// file android.app.KeyguardManager
public class KeyguardManager { public boolean isKeyguardLocked() { return false; } }
// file android.content.BroadcastReceiver
public abstract class BroadcastReceiver {}
// file android.content.Context
public abstract class Context {
    public abstract Context getApplicationContext();
    public final <T> T getSystemService(Class<T> service) { return null; }
    public Intent registerReceiver(BroadcastReceiver receiver, IntentFilter filter) { return null; }
    public java.io.File getExternalFilesDir(String type) { return null; }
    public java.io.File getFilesDir() { return null; }
    public final String getString(int id) { return ""; }
    public final String getString(int id, Object... values) { return ""; }
    public android.content.res.Resources getResources() { return null; }
    public void startActivity(Intent intent) {}
    public ContentResolver getContentResolver() { return null; }
}
// file android.content.ContentResolver
public abstract class ContentResolver {}
// file android.content.ContextWrapper
public class ContextWrapper extends Context { public Context getApplicationContext() { return this; } }
// file android.content.Intent
public class Intent {
    public static final String ACTION_BATTERY_CHANGED = "android.intent.action.BATTERY_CHANGED";
    public static final String ACTION_GET_CONTENT = "android.intent.action.GET_CONTENT";
    public static final String ACTION_SEND = "android.intent.action.SEND", EXTRA_STREAM = "android.intent.extra.STREAM";
    public static final int FLAG_GRANT_READ_URI_PERMISSION = 1;
    private final android.os.Bundle extras = new android.os.Bundle();
    public Intent() {}
    public Intent(String action) {}
    public int getIntExtra(String name, int usual) { return usual; }
    public String getStringExtra(String name) { return extras.getString(name); }
    public android.os.Bundle getExtras() { return extras; }
    public String getType() { return null; }
    public android.net.Uri getData() { return null; }
    public Intent setType(String type) { return this; }
    public Intent putExtra(String name, android.os.Parcelable value) { return this; }
    public Intent putExtra(String name, String value) { extras.putString(name, value); return this; }
    public Intent addFlags(int flags) { return this; }
    public static Intent createChooser(Intent target, CharSequence title) { return target; }
}
// file android.content.IntentFilter
public class IntentFilter { public IntentFilter(String action) {} }
// file android.content.res.Resources
public class Resources { public android.util.DisplayMetrics getDisplayMetrics() { return null; } }
// file android.graphics.Bitmap
public final class Bitmap implements android.os.Parcelable {
    public enum Config { ALPHA_8, RGB_565, ARGB_4444, ARGB_8888, RGBA_F16, HARDWARE, RGBA_1010102 }
    private final int[] pixels;
    private final int width, height;
    private Bitmap(int[] pixels, int width, int height) { this.pixels = pixels.clone(); this.width = width; this.height = height; }
    public Config getConfig() { return Config.ARGB_8888; }
    public Bitmap copy(Config config, boolean mutable) { return this; }
    public void getPixels(int[] into, int offset, int stride, int x, int y, int width, int height) {
        for (int row = 0; row < height; row++) System.arraycopy(pixels, (y + row) * this.width + x, into, offset + row * stride, width);
    }
    public static Bitmap createBitmap(int[] colors, int width, int height, Config config) {
        if (colors.length != width * height) throw new ArrayIndexOutOfBoundsException();
        return new Bitmap(colors, width, height);
    }
    public int getWidth() { return width; }
    public int getHeight() { return height; }
    public int getPixel(int x, int y) { return pixels[y * width + x]; }
}
// file android.graphics.Canvas
public class Canvas { public void drawText(String t, float x, float y, Paint p) {} public void drawLine(float a, float b, float c, float d, Paint p) {} }
// file android.graphics.Color
public class Color { public static final int DKGRAY = 1; public static int rgb(int red, int green, int blue) { return 0; } }
// file android.graphics.ImageDecoder
public final class ImageDecoder {
    public static class Source {}
    public static class ImageInfo { public android.util.Size getSize() { return null; } }
    public interface OnHeaderDecodedListener { void onHeaderDecoded(ImageDecoder decoder, ImageInfo info, Source source); }
    public static Source createSource(android.content.ContentResolver resolver, android.net.Uri uri) { return null; }
    public static Bitmap decodeBitmap(Source source, OnHeaderDecodedListener listener) throws java.io.IOException { return null; }
    public void setTargetSampleSize(int size) {}
}
// file android.graphics.Paint
public class Paint {
    public static final int ANTI_ALIAS_FLAG = 1;
    public Paint(int flags) {}
    public void setColor(int color) {}
    public int getColor() { return 0; }
    public void setStrokeWidth(float width) {}
    public float getStrokeWidth() { return 0; }
    public void setTextSize(float size) {}
    public float getTextSize() { return 0; }
}
// file android.net.Uri
public abstract class Uri implements android.os.Parcelable {}
// file android.os.BatteryManager
public class BatteryManager {
    public static final int BATTERY_PROPERTY_CURRENT_NOW = 2, BATTERY_PROPERTY_CAPACITY = 4;
    public static final String EXTRA_VOLTAGE = "voltage", EXTRA_PLUGGED = "plugged";
    public int getIntProperty(int id) { return 0; }
}
// file android.os.Build
public class Build {
    public static final String UNKNOWN = "unknown";
    public static final String SOC_MODEL = System.getProperty("s2p.soc", UNKNOWN);
    public static class VERSION { public static final int SDK_INT = Integer.getInteger("s2p.sdk", 30); }
    public static class VERSION_CODES { public static final int P = 28, Q = 29, R = 30, S = 31; }
}
// file android.os.Bundle
public final class Bundle implements Parcelable {
    private final java.util.Map<String, String> texts = new java.util.HashMap<>();
    public java.util.Set<String> keySet() { return texts.keySet(); }
    public String getString(String key) { return texts.get(key); }
    public void putString(String key, String value) { texts.put(key, value); }
}
// file android.os.Handler
public class Handler { public Handler(Looper looper) {} public final boolean post(Runnable work) { return true; } }
// file android.os.Looper
public final class Looper { public static Looper getMainLooper() { return null; } }
// file android.os.Parcelable
public interface Parcelable {}
// file android.os.PowerManager
public final class PowerManager {
    public int getCurrentThermalStatus() { return 0; }
    public float getThermalHeadroom(int seconds) { return 0; }
    public boolean isPowerSaveMode() { return false; }
    public boolean isInteractive() { return true; }
}
// file android.system.ErrnoException
public final class ErrnoException extends Exception {}
// file android.system.Os
public final class Os {
    public static final java.util.Map<String, String> environment = new java.util.concurrent.ConcurrentHashMap<>();
    public static void setenv(String name, String value, boolean overwrite) throws ErrnoException {
        if (overwrite) environment.put(name, value); else environment.putIfAbsent(name, value);
    }
}
// file android.text.Editable
public interface Editable extends CharSequence {}
// file android.text.InputType
public interface InputType { int TYPE_CLASS_NUMBER = 2; }
// file android.util.DisplayMetrics
public class DisplayMetrics { public float density; }
// file android.util.Size
public final class Size { public int getWidth() { return 0; } public int getHeight() { return 0; } }
// file android.view.View
public class View {
    public View(android.content.Context context) {}
    public interface OnClickListener { void onClick(View view); }
    public void setOnClickListener(OnClickListener listener) {}
    public void setEnabled(boolean enabled) {}
    public boolean isEnabled() { return true; }
    public void invalidate() {}
    protected void onDraw(android.graphics.Canvas canvas) {}
    public final int getWidth() { return 0; }
    public final int getHeight() { return 0; }
    public android.content.res.Resources getResources() { return null; }
    public void setFitsSystemWindows(boolean fits) {}
    public boolean getFitsSystemWindows() { return false; }
}
// file android.view.ViewGroup
public abstract class ViewGroup extends View {
    public ViewGroup(android.content.Context context) { super(context); }
    public static class LayoutParams { public static final int MATCH_PARENT = -1; public LayoutParams(int width, int height) {} }
    public void addView(View child) {}
    public void addView(View child, LayoutParams params) {}
}
// file android.view.Window
public abstract class Window { public void addFlags(int flags) {} public void clearFlags(int flags) {} }
// file android.view.WindowManager
public interface WindowManager {
    public static class LayoutParams extends ViewGroup.LayoutParams {
        public LayoutParams() { super(0, 0); }
        public static final int FLAG_KEEP_SCREEN_ON = 128;
    }
}
// file android.widget.ArrayAdapter
public class ArrayAdapter<T> implements SpinnerAdapter { public ArrayAdapter(android.content.Context c, int resource, java.util.List<T> objects) {} }
// file android.widget.Button
public class Button extends TextView { public Button(android.content.Context context) { super(context); } }
// file android.widget.EditText
public class EditText extends TextView {
    public EditText(android.content.Context context) { super(context); }
    public android.text.Editable getText() { return null; }
}
// file android.widget.ImageView
public class ImageView extends android.view.View {
    public ImageView(android.content.Context context) { super(context); }
    public void setImageBitmap(android.graphics.Bitmap bitmap) {}
}
// file android.widget.LinearLayout
public class LinearLayout extends android.view.ViewGroup {
    public static final int VERTICAL = 1;
    public LinearLayout(android.content.Context context) { super(context); }
    public void setOrientation(int orientation) {}
    public int getOrientation() { return 0; }
    public static class LayoutParams extends android.view.ViewGroup.LayoutParams { public LayoutParams(int w, int h, float weight) { super(w, h); } }
}
// file android.widget.Spinner
public class Spinner extends android.view.ViewGroup {
    public Spinner(android.content.Context context) { super(context); }
    public void setAdapter(SpinnerAdapter adapter) {}
    public SpinnerAdapter getAdapter() { return null; }
    public Object getSelectedItem() { return null; }
}
// file android.widget.SpinnerAdapter
public interface SpinnerAdapter {}
// file android.widget.TextView
public class TextView extends android.view.View {
    public TextView(android.content.Context context) { super(context); }
    public final void setText(CharSequence text) {}
    public final void setText(int id) {}
    public CharSequence getText() { return ""; }
    public final void setHint(CharSequence hint) {}
    public CharSequence getHint() { return null; }
    public void setInputType(int type) {}
    public int getInputType() { return 0; }
}
// file androidx.core.content.FileProvider
public class FileProvider { public static android.net.Uri getUriForFile(android.content.Context c, String authority, java.io.File file) { return null; } }
// file dalvik.system.BaseDexClassLoader
public class BaseDexClassLoader extends ClassLoader { @Override public String findLibrary(String name) { return null; } }
// file org.json.JSONArray
public class JSONArray {
    public int length() { return 0; }
    public double getDouble(int index) { return 0; }
    public JSONArray getJSONArray(int index) { return null; }
    public JSONObject getJSONObject(int index) { return null; }
}
// file org.json.JSONObject
public class JSONObject {
    public JSONObject(String json) {}
    public JSONObject getJSONObject(String name) { return null; }
    public JSONArray getJSONArray(String name) { return null; }
    public double optDouble(String name) { return 0; }
}
