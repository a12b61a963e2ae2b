//! A wall clock that jumps.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

/// The clock of whatever process is started with [`Clock::variables`]. Only its wall clock jumps; what
/// measures durations does not, as on a machine whose time is set.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that is right so far. Its files lie in `folder`.
    ///
    /// # Errors
    /// When there is no C compiler, which linking Rust programs needs too.
    pub fn new(folder: &Path, name: &str) -> Result<Clock> {
        let library = folder.join("clock.so");
        if !library.exists() {
            let source = folder.join("clock.c");
            fs::write(&source, include_str!("clock.c"))?;
            let compiled = Command::new("cc")
                .args(["-shared", "-fPIC", "-O1", "-o"])
                .args([&library, &source])
                .arg("-ldl")
                .status()?;
            ensure!(compiled.success(), "cc cannot compile clock.c");
        }
        let file = folder.join(format!("{name}.clock"));
        fs::write(&file, 0_i64.to_ne_bytes())?;
        Ok(Clock { library, file })
    }

    /// The environment of a process that has this clock.
    pub fn variables(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("TESTKIT_CLOCK", &self.file)]
    }

    /// Sets how many milliseconds it is ahead, or behind.
    ///
    /// # Errors
    /// When its file is gone.
    pub fn set(&self, ahead: i64) -> Result<()> {
        use std::os::unix::fs::FileExt;
        // In place: processes have the file mapped.
        let file = fs::OpenOptions::new().write(true).open(&self.file)?;
        Ok(file.write_all_at(&ahead.to_ne_bytes(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(clock: Option<&Clock>) -> i64 {
        let mut date = Command::new("date");
        date.arg("+%s");
        if let Some(clock) = clock {
            date.envs(clock.variables());
        }
        let said = date.output().unwrap().stdout;
        String::from_utf8(said).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn a_process_sees_the_time_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::new(folder.path(), "date").unwrap();
        for ahead in [0, 86_400_000, -3_600_500] {
            clock.set(ahead).unwrap();
            let off = seconds(Some(&clock)) - seconds(None);
            assert!((off - ahead / 1000).abs() <= 2, "{ahead}: {off}");
        }
    }
}
