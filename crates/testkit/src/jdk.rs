//! Finding a Java Development Kit of the right version.

use std::path::{Path, PathBuf};

/// An installed JDK (with a compiler, because the launchers are compiled here).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Jdk {
    /// Its feature release: 17, 21, 25.
    pub major: u32,
    /// The folder with `bin/java`.
    pub home: PathBuf,
}

impl Jdk {
    /// The oldest installed JDK whose feature release is in `wanted`: what a server was tested with is nearest to it.
    pub fn find(wanted: std::ops::RangeInclusive<u32>) -> Option<Jdk> {
        Self::installed()
            .into_iter()
            .find(|jdk| wanted.contains(&jdk.major))
    }

    /// Everything found in `JAVA_HOME`, under `/usr/lib/jvm` and through `java` on the path, oldest first.
    pub fn installed() -> Vec<Jdk> {
        let mut found: Vec<Jdk> = candidates().iter().filter_map(|home| at(home)).collect();
        found.sort();
        found.dedup();
        found
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.home.join("bin").join(name)
    }
}

fn candidates() -> Vec<PathBuf> {
    let from_environment = std::env::var_os("JAVA_HOME").map(PathBuf::from);
    let from_system = std::fs::read_dir("/usr/lib/jvm")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let from_path = std::env::split_paths(&path).find_map(|folder| {
        let program = folder.join("java").canonicalize().ok()?;
        Some(program.parent()?.parent()?.to_owned())
    });
    from_environment
        .into_iter()
        .chain(from_system)
        .chain(from_path)
        .filter_map(|home| home.canonicalize().ok())
        .collect()
}

fn at(home: &Path) -> Option<Jdk> {
    let complete = ["java", "javac"]
        .iter()
        .all(|program| home.join("bin").join(program).is_file());
    let release = std::fs::read_to_string(home.join("release")).ok()?;
    let major = major(&release)?;
    complete.then(|| Jdk {
        major,
        home: home.to_owned(),
    })
}

/// The feature release in a JDK's `release` file; before Java 9 it stood second (`1.8.0`).
fn major(release: &str) -> Option<u32> {
    let version = release
        .lines()
        .find_map(|line| line.strip_prefix("JAVA_VERSION="))?
        .trim_matches('"');
    let mut parts = version.split(['.', '-', '+']);
    match parts.next()?.parse().ok()? {
        1 => parts.next()?.parse().ok(),
        major => Some(major),
    }
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn the_feature_release_is_read_from_every_style_of_version() {
        assert_eq!(major("JAVA_VERSION=\"17.0.15\"\n"), Some(17));
        assert_eq!(major("IMPLEMENTOR=\"x\"\nJAVA_VERSION=\"25\""), Some(25));
        assert_eq!(major("JAVA_VERSION=\"1.8.0_412\""), Some(8));
        assert_eq!(major("nothing"), None);
    }
}
