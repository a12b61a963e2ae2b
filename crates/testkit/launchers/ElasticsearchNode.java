import java.lang.reflect.Method;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import org.apache.lucene.util.Version;
import org.elasticsearch.cluster.service.ClusterService;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.http.HttpServerTransport;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;
import org.elasticsearch.rest.RestController;
import org.elasticsearch.rest.RestHandler;
import org.elasticsearch.rest.RestRequest;
import org.elasticsearch.rest.RestResponse;
import org.elasticsearch.rest.RestStatus;
import org.elasticsearch.transport.TransportService;

/**
 * An Elasticsearch 8 or 9 node: the server on the class path, modules from the folder in {@code testkit.modules}.
 *
 * <p>{@code ElasticsearchNode key=value...}. When the node listens, its HTTP and transport ports are in
 * {@code <path.home>/ports}. {@code GET /} is answered here, because the module that does is not published.
 */
public final class ElasticsearchNode {
    public static void main(String[] arguments) throws Exception {
        Settings settings = settings(arguments);
        Path home = Path.of(settings.get("path.home"));
        LogConfigurator.registerErrorListener();
        setNodeName(settings.get("node.name"));
        Environment environment = new Environment(settings, home.resolve("config"));
        LogConfigurator.configure(environment, true);

        Node node = new Node(environment, modules());
        answerRoot(node, settings);
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

    /** Only one of the two versions has this method. */
    private static void setNodeName(String name) throws ReflectiveOperationException {
        try {
            LogConfigurator.class.getMethod("setNodeName", String.class).invoke(null, name);
        } catch (NoSuchMethodException absent) {
            // The node sets it by itself.
        }
    }

    /** loadModulesBundles takes a second argument in one of the two versions. */
    @SuppressWarnings({"unchecked", "rawtypes"})
    private static PluginsLoader modules() throws ReflectiveOperationException {
        Path folder = Path.of(System.getProperty("testkit.modules"));
        for (Method method : PluginsLoader.class.getMethods()) {
            if (!method.getName().equals("loadModulesBundles")) continue;
            Object bundles = method.getParameterCount() == 1 ? method.invoke(null, folder) : method.invoke(null, folder, false);
            return PluginsLoader.createPluginsLoader((Set) bundles, Set.of(), Map.of(), false);
        }
        throw new NoSuchMethodException("PluginsLoader.loadModulesBundles");
    }

    private static void answerRoot(Node node, Settings settings) {
        RestHandler handler = (request, channel, client) -> {
            String cluster = node.injector().getInstance(ClusterService.class).state().metadata().clusterUUID();
            String body = """
                {
                  "name" : "%s",
                  "cluster_name" : "%s",
                  "cluster_uuid" : "%s",
                  "version" : {
                    "number" : "%s",
                    "build_flavor" : "default",
                    "build_type" : "tar",
                    "lucene_version" : "%s"
                  },
                  "tagline" : "You Know, for Search"
                }
                """.formatted(
                    settings.get("node.name"), settings.get("cluster.name"), cluster,
                    System.getProperty("testkit.version"), Version.LATEST);
            channel.sendResponse(new RestResponse(RestStatus.OK, "application/json", body));
        };
        RestController rest = node.injector().getInstance(RestController.class);
        rest.registerHandler(new RestHandler.Route(RestRequest.Method.GET, "/"), handler);
        rest.registerHandler(new RestHandler.Route(RestRequest.Method.HEAD, "/"), handler);
    }
}
