//! The command line of a search node: class path, Java flags, settings, certificates.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::artefacts::{Artefact, lock};
use crate::jdk::Jdk;
use crate::product::{Family, Product};
use crate::search_node::{NodeOptions, label};
use crate::security::Security;
use crate::tools::Tool;

/// The whole command line, after fetching and compiling what it needs.
pub(crate) fn command(
    product: Product,
    options: &NodeOptions,
    home: &Path,
    ports: (u16, u16),
) -> Result<Vec<OsString>> {
    let jdk = product.jdk()?;
    let jars = Artefact::Search(product).fetch()?;
    let classes = launcher(product, &jdk, &jars.join("lib"))?;
    for folder in ["config", "logs", "modules", "plugins", "repo", "tmp"] {
        fs::create_dir_all(home.join(folder))?;
    }
    fs::write(
        home.join("config/log4j2.properties"),
        include_str!("../launchers/log4j2.properties"),
    )?;
    if product.is_secured() && !home.join("config/ca.pem").exists() {
        prepare_security(&jars, &home.join("config"))?;
    }
    let mut class_path = OsString::from(&classes);
    class_path.push(":");
    class_path.push(jars.join("lib/*"));

    let mut command: Vec<OsString> = vec![jdk.program("java").into()];
    command.extend(
        java_flags(product, &jdk, options, home, &jars)
            .into_iter()
            .map(OsString::from),
    );
    command.extend([
        OsString::from("-cp"),
        class_path,
        OsString::from(launcher_class(product)),
    ]);
    command.extend(
        settings(product, options, home, ports)
            .into_iter()
            .map(OsString::from),
    );
    Ok(command)
}

fn java_flags(
    product: Product,
    jdk: &Jdk,
    options: &NodeOptions,
    home: &Path,
    jars: &Path,
) -> Vec<String> {
    let (heap, home) = (options.heap_megabytes, home.display());
    let mut flags = vec![
        format!("-Xms{heap}m"),
        format!("-Xmx{heap}m"),
        "-XX:+UseSerialGC".to_owned(),
        "-XX:-UsePerfData".to_owned(),
        format!("-Djava.io.tmpdir={home}/tmp"),
        "-Dlog4j2.formatMsgNoLookups=true".to_owned(),
        "-Dlog4j2.disable.jmx=true".to_owned(),
        "-Dlog4j.shutdownHookEnabled=false".to_owned(),
        "-Dio.netty.noUnsafe=true".to_owned(),
    ];
    if !options.optimised {
        flags.push("-XX:TieredStopAtLevel=1".to_owned());
    }
    if jdk.major >= 22 {
        flags.push("--enable-native-access=ALL-UNNAMED".to_owned());
    }
    if product.family() == Family::Elasticsearch {
        let jars = jars.display();
        flags.extend([
            "--add-opens=java.base/java.io=ALL-UNNAMED".to_owned(),
            format!("-Des.path.home={home}"),
            format!("-Des.nativelibs.path={jars}/native"),
            format!("-Dtestkit.modules={jars}/modules"),
            format!("-Dtestkit.version={}", product.version()),
        ]);
    }
    flags
}

fn settings(
    product: Product,
    options: &NodeOptions,
    home: &Path,
    ports: (u16, u16),
) -> Vec<String> {
    let data = options.data.clone().unwrap_or_else(|| home.join("data"));
    let home = home.display();
    let mut settings: Vec<(String, String)> = [
        ("path.home", home.to_string()),
        ("path.data", data.display().to_string()),
        ("path.logs", format!("{home}/logs")),
        ("path.repo", format!("{home}/repo")),
        ("cluster.name", "testkit".to_owned()),
        ("node.name", options.name.clone()),
        ("network.host", "127.0.0.1".to_owned()),
        ("http.port", ports.0.to_string()),
        ("transport.port", ports.1.to_string()),
        (
            "cluster.routing.allocation.disk.threshold_enabled",
            "false".to_owned(),
        ),
        ("cluster.max_shards_per_node", "10000".to_owned()),
        // Counting garbage as used memory, it refuses requests that a small heap has room for.
        ("indices.breaker.total.use_real_memory", "false".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let mut add = |key: &str, value: &str| settings.push((key.to_owned(), value.to_owned()));
    match product.family() {
        Family::Elasticsearch7 => add("reindex.remote.whitelist", "127.0.0.1:*"),
        Family::Elasticsearch => {}
        Family::OpenSearch => add("reindex.remote.allowlist", "127.0.0.1:*"),
    }
    if product.is_secured() {
        SECURITY_SETTINGS
            .iter()
            .for_each(|(key, value)| add(key, value));
    }
    if !options
        .settings
        .iter()
        .any(|(key, _)| key.starts_with("discovery.") || key.contains("initial_"))
    {
        add("discovery.type", "single-node");
    }
    settings.retain(|(key, _)| options.settings.iter().all(|(other, _)| other != key));
    settings.extend(options.settings.iter().cloned());
    settings
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

const SECURITY_SETTINGS: [(&str, &str); 11] = [
    (
        "plugins.security.ssl.transport.pemcert_filepath",
        "node.pem",
    ),
    ("plugins.security.ssl.transport.pemkey_filepath", "node.key"),
    (
        "plugins.security.ssl.transport.pemtrustedcas_filepath",
        "ca.pem",
    ),
    (
        "plugins.security.ssl.transport.enforce_hostname_verification",
        "false",
    ),
    ("plugins.security.ssl.http.enabled", "true"),
    ("plugins.security.ssl.http.pemcert_filepath", "node.pem"),
    ("plugins.security.ssl.http.pemkey_filepath", "node.key"),
    ("plugins.security.ssl.http.pemtrustedcas_filepath", "ca.pem"),
    ("plugins.security.authcz.admin_dn", "CN=admin"),
    ("plugins.security.nodes_dn", "CN=node"),
    ("plugins.security.allow_default_init_securityindex", "true"),
];

/// Certificates, and the plugin's own users and roles with our way of logging in.
fn prepare_security(jars: &Path, config: &Path) -> Result<()> {
    Security::create(config)?;
    let target = config.join("opensearch-security");
    fs::create_dir_all(&target)?;
    for entry in fs::read_dir(jars.join("security"))? {
        let entry = entry?;
        fs::copy(entry.path(), target.join(entry.file_name()))?;
    }
    fs::write(
        target.join("config.yml"),
        include_str!("../launchers/security/config.yml"),
    )?;
    fs::write(
        target.join("roles_mapping.yml"),
        include_str!("../launchers/security/roles_mapping.yml"),
    )?;
    Ok(())
}

fn launcher_class(product: Product) -> &'static str {
    match product.family() {
        Family::Elasticsearch7 => "Elasticsearch7Node",
        Family::Elasticsearch => "ElasticsearchNode",
        Family::OpenSearch => "OpenSearchNode",
    }
}

/// Compiles the launcher against the server's jars, once per source, server and JDK; returns the folder of classes.
fn launcher(product: Product, jdk: &Jdk, lib: &Path) -> Result<PathBuf> {
    let source = match product.family() {
        Family::Elasticsearch7 => include_str!("../launchers/Elasticsearch7Node.java"),
        Family::Elasticsearch => include_str!("../launchers/ElasticsearchNode.java"),
        Family::OpenSearch => include_str!("../launchers/OpenSearchNode.java"),
    };
    let mut hasher = DefaultHasher::new();
    (source, jdk, lib).hash(&mut hasher);
    let name = format!("launcher-{}-{:016x}", label(product), hasher.finish());
    let folder = crate::paths::cache().join("servers").join(&name);
    let _one_at_a_time = lock(&name)?;
    if folder.exists() {
        return Ok(folder);
    }
    let partial = folder.with_extension("partial");
    fs::create_dir_all(&partial)?;
    let file = partial.join(format!("{}.java", launcher_class(product)));
    fs::write(&file, source)?;
    let mut class_path = lib.as_os_str().to_owned();
    class_path.push("/*");
    let mut command = std::process::Command::new(jdk.program("javac"));
    command
        .args(["-proc:none", "-nowarn", "-cp"])
        .arg(class_path)
        .arg("-d")
        .arg(&partial)
        .arg(&file);
    Tool::JAVAC
        .run(&mut command)
        .with_context(|| format!("cannot compile the launcher of {product}"))?;
    fs::rename(&partial, &folder)?;
    Ok(folder)
}
