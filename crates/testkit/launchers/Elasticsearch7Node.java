import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.http.HttpServerTransport;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.Plugin;
import org.elasticsearch.transport.TransportService;

/**
 * An Elasticsearch 7 node from jars on one class path: {@code Elasticsearch7Node key=value...}.
 *
 * <p>When the node listens, its HTTP and transport ports are in {@code <path.home>/ports}.
 */
public final class Elasticsearch7Node {
    private static final String[] PLUGINS = {
        "org.elasticsearch.transport.Netty4Plugin",
        "org.elasticsearch.painless.PainlessPlugin",
        "org.elasticsearch.reindex.ReindexPlugin",
        "org.elasticsearch.index.reindex.ReindexPlugin", // its name in 7.10
        "org.elasticsearch.analysis.common.CommonAnalysisPlugin",
        "org.elasticsearch.ingest.common.IngestCommonPlugin",
        "org.elasticsearch.index.mapper.MapperExtrasPlugin",
        "org.elasticsearch.join.ParentJoinPlugin",
        "org.elasticsearch.script.mustache.MustachePlugin",
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

    private static Collection<Class<? extends Plugin>> plugins() {
        List<Class<? extends Plugin>> plugins = new ArrayList<>();
        for (String name : PLUGINS) {
            try {
                plugins.add(Class.forName(name).asSubclass(Plugin.class));
            } catch (ClassNotFoundException absent) {
                // This version does without.
            }
        }
        return plugins;
    }

    /** Node's constructor that takes plugins from the class path is protected. */
    private static final class ClasspathNode extends Node {
        ClasspathNode(Environment environment, Collection<Class<? extends Plugin>> plugins) {
            super(environment, plugins, true);
        }
    }
}
