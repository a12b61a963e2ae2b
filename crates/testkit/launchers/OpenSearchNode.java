import java.lang.reflect.Constructor;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import org.opensearch.Version;
import org.opensearch.common.logging.LogConfigurator;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.http.HttpServerTransport;
import org.opensearch.node.Node;
import org.opensearch.plugins.Plugin;
import org.opensearch.plugins.PluginInfo;
import org.opensearch.transport.TransportService;

/**
 * An OpenSearch 2 or 3 node from jars on one class path: {@code OpenSearchNode key=value...}.
 *
 * <p>The distribution's main class wants a directory of plugin folders; here plugins are classes on the class path.
 * When the node listens, its HTTP and transport ports are in {@code <path.home>/ports}.
 */
public final class OpenSearchNode {
    private static final String[] PLUGINS = {
        "org.opensearch.transport.Netty4ModulePlugin",
        "org.opensearch.painless.PainlessModulePlugin",
        "org.opensearch.index.reindex.ReindexModulePlugin",
        "org.opensearch.analysis.common.CommonAnalysisModulePlugin",
        "org.opensearch.ingest.common.IngestCommonModulePlugin",
        "org.opensearch.index.mapper.MapperExtrasModulePlugin",
        "org.opensearch.join.ParentJoinModulePlugin",
        "org.opensearch.script.mustache.MustacheModulePlugin",
        "org.opensearch.security.OpenSearchSecurityPlugin", // only the secured server has it
    };

    public static void main(String[] arguments) throws Exception {
        Settings settings = settings(arguments);
        Path home = Path.of(settings.get("path.home"));
        LogConfigurator.registerErrorListener();
        LogConfigurator.setNodeName(settings.get("node.name"));
        Environment environment = new Environment(settings, home.resolve("config"));
        LogConfigurator.configure(environment);

        Node node = new ClasspathNode(environment, plugins());
        node.start();
        int http = node.injector().getInstance(HttpServerTransport.class).boundAddress().publishAddress().getPort();
        int transport = node.injector().getInstance(TransportService.class).boundAddress().publishAddress().getPort();
        Path written = Files.writeString(home.resolve("ports.new"), http + " " + transport + "\n");
        Files.move(written, home.resolve("ports"), StandardCopyOption.ATOMIC_MOVE);
        new CountDownLatch(1).await();
    }

    private static Settings settings(String[] arguments) {
        Settings.Builder settings = Settings.builder();
        for (String argument : arguments) {
            String[] pair = argument.split("=", 2);
            if (pair[1].contains(",")) settings.putList(pair[0], pair[1].split(","));
            else settings.put(pair[0], pair[1]);
        }
        return settings.build();
    }

    /** The plugins that are on the class path, as this version's Node wants them: classes before 3, PluginInfo since. */
    private static Collection<?> plugins() throws ReflectiveOperationException {
        boolean byInfo = false;
        for (Constructor<?> constructor : Node.class.getDeclaredConstructors()) {
            byInfo |= constructor.getParameterCount() == 3
                && constructor.getGenericParameterTypes()[1].getTypeName().contains("PluginInfo");
        }
        List<Object> plugins = new ArrayList<>();
        for (String name : PLUGINS) {
            Class<?> plugin = find(name);
            if (plugin != null) plugins.add(byInfo ? info(plugin) : plugin);
        }
        return plugins;
    }

    /** Modules were renamed from XPlugin to XModulePlugin on the way; both names are tried. */
    private static Class<?> find(String name) {
        for (String candidate : new String[] {name, name.replace("ModulePlugin", "Plugin")}) {
            try {
                return Class.forName(candidate);
            } catch (ClassNotFoundException absent) {
                // The next name, or the server does without.
            }
        }
        return null;
    }

    private static Object info(Class<?> plugin) throws ReflectiveOperationException {
        return PluginInfo.class
            .getConstructor(
                String.class, String.class, String.class, Version.class, String.class, String.class, String.class,
                List.class, boolean.class)
            .newInstance(
                plugin.getName(), "on the class path", "NA", Version.CURRENT,
                System.getProperty("java.specification.version"), plugin.getName(), null, List.of(), false);
    }

    /** Node's constructor that takes plugins from the class path is protected. */
    private static final class ClasspathNode extends Node {
        @SuppressWarnings({"unchecked", "rawtypes"})
        ClasspathNode(Environment environment, Collection plugins) {
            super(environment, plugins, true);
        }
    }
}
