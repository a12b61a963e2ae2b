//! The gateway's microVM under emulation: the kernel and the root drive that Firecracker gets, started by QEMU.
//!
//! QEMU's `microvm` machine takes the same kernel image, the same drives and the same words on the kernel command line
//! as Firecracker, and needs no hardware virtualisation; only the times are those of an emulated processor.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use crate::keeper::{Home, Kept, Lifetime};
use crate::paths;

/// An emulated processor on a busy machine takes its time.
const BOOT_WITHIN: Duration = Duration::from_secs(240);
const STOP_WITHIN: Duration = Duration::from_secs(120);

/// What a guest is started from: a kernel, its initramfs when it needs one, and a root drive.
#[derive(Debug, Clone)]
pub struct MicroVmImages {
    folder: PathBuf,
}

impl MicroVmImages {
    /// Those that `make firecracker-kernel` and `make firecracker-rootfs` have left.
    pub fn built() -> Result<MicroVmImages> {
        let folder = paths::checkout().join("firecracker");
        for (file, target) in [
            ("vmlinux", "firecracker-kernel"),
            ("rootfs.ext4", "firecracker-rootfs"),
        ] {
            ensure!(
                folder.join(file).exists(),
                "there is no firecracker/{file} yet: make {target} builds it"
            );
        }
        Ok(MicroVmImages { folder })
    }

    /// Builds a root drive with `program` in it under `target/microvm`, beside the kernel that the variable `KERNEL`
    /// names: Debian's unless told otherwise, as compiling one takes minutes.
    pub fn build(program: &Path) -> Result<MicroVmImages> {
        let folder = paths::checkout().join("target/microvm");
        fs::create_dir_all(&folder)?;
        // Two test processes build one after the other.
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        let nats = crate::NatsServer::binary()?;
        let kernel = std::env::var_os("KERNEL").unwrap_or_else(|| "debian".into());
        script("microvm-kernel.sh", &folder, &[("KERNEL", &kernel)])?;
        script(
            "microvm-rootfs.sh",
            &folder.join("rootfs.ext4"),
            &[
                ("PROGRAM", program.as_ref()),
                ("NATS_BINARY", nats.as_ref()),
            ],
        )?;
        Ok(MicroVmImages { folder })
    }
}

fn script(name: &str, output: &Path, environment: &[(&str, &std::ffi::OsStr)]) -> Result<()> {
    let output = Command::new(paths::checkout().join("scripts").join(name))
        .arg(output)
        .envs(environment.iter().copied())
        .env("SYNCLINE_CACHE", paths::cache())
        .output()
        .with_context(|| format!("cannot run scripts/{name}"))?;
    ensure!(
        output.status.success(),
        "scripts/{name} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// How a guest is started.
#[derive(Debug, Clone)]
pub struct MicroVmOptions {
    /// Its memory, in MiB.
    pub memory: u32,
    /// `KEY=value` words for the kernel command line: the gateway's environment.
    pub settings: Vec<String>,
    /// More drives, as ext4 images: those labelled `syncline-data` and `syncline-config`.
    pub drives: Vec<PathBuf>,
    /// Whether the processor is emulated; otherwise `/dev/kvm` is used.
    pub is_emulated: bool,
    /// Ports of this machine for the guest's 4222 (NATS) and 8080 (admin).
    pub ports: (u16, u16),
}

impl MicroVmOptions {
    /// 128 MiB, an emulated processor, free ports.
    pub fn new(drives: Vec<PathBuf>) -> Result<MicroVmOptions> {
        Ok(MicroVmOptions {
            memory: 128,
            settings: Vec::new(),
            drives,
            is_emulated: true,
            ports: (free_port()?, free_port()?),
        })
    }

    /// QEMU's command line; `console` and `monitor` are QEMU's names for where those two go.
    pub fn command(&self, images: &MicroVmImages, console: &str, monitor: &str) -> Vec<OsString> {
        let file = |name: &str| images.folder.join(name).into_os_string();
        let (nats, admin) = self.ports;
        let mut command: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| command.extend(words.iter().map(OsString::from));
        add(&["qemu-system-x86_64", "-M", "microvm,acpi=off", "-smp", "1"]);
        add(&["-accel", if self.is_emulated { "tcg" } else { "kvm" }]);
        add(&["-cpu", "max", "-m", &self.memory.to_string()]);
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        add(&["-serial", console, "-monitor", monitor]);
        // The keyboard by which Firecracker asks a guest for its end.
        add(&["-device", "i8042"]);
        add(&["-netdev"]);
        add(&[&format!(
            "user,id=network,hostfwd=tcp:127.0.0.1:{nats}-:4222,hostfwd=tcp:127.0.0.1:{admin}-:8080"
        )]);
        add(&["-device", "virtio-net-device,netdev=network"]);
        let mut words = vec![
            "console=ttyS0 quiet reboot=t panic=1 root=/dev/vda rw".to_owned(),
            "ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off".to_owned(),
        ];
        words.extend(self.settings.iter().map(|word| quoted(word)));
        add(&["-append", &words.join(" ")]);
        command.extend(["-kernel".into(), file("vmlinux")]);
        if Path::new(&file("initramfs.cpio.gz")).exists() {
            command.extend(["-initrd".into(), file("initramfs.cpio.gz")]);
        }
        // What runs from it must not change it: the same image may serve many guests.
        let root = images.folder.join("rootfs.ext4");
        for (number, drive) in std::iter::once(&root).chain(&self.drives).enumerate() {
            let mut description =
                OsString::from(format!("if=none,id=drive{number},format=raw,file="));
            description.push(drive);
            if number == 0 {
                description.push(",snapshot=on");
            }
            command.extend(["-drive".into(), description, "-device".into()]);
            command.push(format!("virtio-blk-device,drive=drive{number}").into());
        }
        command
    }
}

/// A word of the kernel command line.
fn quoted(word: &str) -> String {
    match word.split_once('=') {
        Some((key, value)) if value.contains(' ') => format!("{key}=\"{value}\""),
        _ => word.to_owned(),
    }
}

/// Makes an empty data drive; of its size only what is written is taken from the disk.
pub fn data_drive(file: &Path, megabytes: u32) -> Result<()> {
    drive(file, "syncline-data", megabytes, None)
}

/// Makes a drive with the files of a folder: `config.yaml`, and what that names.
pub fn config_drive(file: &Path, folder: &Path) -> Result<()> {
    drive(file, "syncline-config", 4, Some(folder))
}

fn drive(file: &Path, label: &str, megabytes: u32, content: Option<&Path>) -> Result<()> {
    // Debian keeps it where only root looks.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new("mke2fs");
    command.env("PATH", path);
    command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-L", label]);
    if let Some(content) = content {
        command.arg("-d").arg(content);
    }
    let output = command.arg(file).arg(format!("{megabytes}M")).output();
    let output = output.context("cannot run mke2fs (Debian: apt-get install e2fsprogs)")?;
    ensure!(
        output.status.success(),
        "mke2fs {}: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// A running guest. Dropping it ends QEMU at once, as a cut of the power would.
#[derive(Debug)]
pub struct MicroVm {
    kept: Kept,
    ports: (u16, u16),
}

impl MicroVm {
    /// Boots one and waits until the gateway in it is ready.
    pub async fn boot(images: &MicroVmImages, options: &MicroVmOptions) -> Result<MicroVm> {
        let home = Home::create("microvm")?;
        // Relative: the path of a socket may not be long.
        let command = options.command(images, "stdio", "unix:monitor,server=on,wait=off");
        let kept = Kept::start(Lifetime::Owner, home, command).await?;
        let mut guest = MicroVm {
            kept,
            ports: options.ports,
        };
        guest.says("microvm: ready", BOOT_WITHIN).await?;
        Ok(guest)
    }

    /// Its nats-server from this machine.
    pub fn nats_url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.ports.0)
    }

    /// The gateway's admin API from this machine.
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.1)
    }

    /// What the guest has written to its console.
    pub fn console(&self) -> Result<String> {
        let text = fs::read(&self.kept.home.log)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Waits until the console has `words`; an error as soon as the guest ends without.
    pub async fn says(&mut self, words: &str, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        while !self.console()?.contains(words) {
            self.kept
                .fail_if_over(deadline)
                .with_context(|| format!("the guest does not say {words:?}"))?;
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Presses Ctrl+Alt+Del, as Firecracker's `SendCtrlAltDel` does, and waits for the end; returns the console.
    pub async fn stop(self) -> Result<String> {
        press_ctrl_alt_del(&self.kept.home.folder.join("monitor"))?;
        let deadline = Instant::now() + STOP_WITHIN;
        while self.kept.is_alive() {
            ensure!(
                Instant::now() < deadline,
                "the guest does not end: {}",
                self.console()?
            );
            sleep(Duration::from_millis(20)).await;
        }
        self.console()
    }

    /// Cuts its power.
    pub fn kill(&mut self) {
        self.kept.kill();
    }
}

impl Drop for MicroVm {
    fn drop(&mut self) {
        self.kept.clean_up();
    }
}

/// Asks a guest for its end through QEMU's monitor.
pub fn press_ctrl_alt_del(monitor: &Path) -> Result<()> {
    // A socket's path may have 107 bytes; one of /proc always fits.
    let folder = File::open(monitor.parent().context("a monitor lies in a folder")?)?;
    let name = monitor.file_name().context("a monitor has a name")?;
    let short = PathBuf::from(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&folder)
    ));
    let mut monitor = UnixStream::connect(short.join(name)).context("QEMU's monitor is away")?;
    monitor.write_all(b"sendkey ctrl-alt-delete\n")?;
    // Closed too early, the command may not be read.
    monitor.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answer = Vec::new();
    let mut bytes = [0; 512];
    while !String::from_utf8_lossy(&answer)
        .trim_end()
        .ends_with("(qemu)")
        || !String::from_utf8_lossy(&answer).contains("sendkey")
    {
        match monitor.read(&mut bytes)? {
            0 => break,
            read => answer.extend_from_slice(&bytes[..read]),
        }
    }
    Ok(())
}
