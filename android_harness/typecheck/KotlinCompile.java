import java.util.ArrayList;
import java.util.List;
import org.jetbrains.kotlin.cli.common.ExitCode;
import org.jetbrains.kotlin.cli.jvm.K2JVMCompiler;

/** Compiles several Kotlin modules one after the other in one Java machine, which is what takes long to get going. A module is its name and
 *  the compiler's own arguments, with the word "--" between two of them. Says "== NAME" before what the compiler says of a module. */
public final class KotlinCompile {
    public static void main(String[] words) {
        List<String> module = new ArrayList<>();
        for (int i = 0; i <= words.length; i++) {
            if (i < words.length && !words[i].equals("--")) {
                module.add(words[i]);
                continue;
            }
            System.err.println("== " + module.remove(0));
            ExitCode code = new K2JVMCompiler().exec(System.err, module.toArray(new String[0]));
            if (code != ExitCode.OK && code != ExitCode.COMPILATION_ERROR) System.exit(2);
            module.clear();
        }
    }
}
