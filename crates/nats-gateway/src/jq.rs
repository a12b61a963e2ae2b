//! jq programs in a process of their own.
//!
//! An interpreter cannot be stopped from inside: a program that loops never comes back, one that builds a
//! giant never lets go. So programs run in a child of this process, which is killed when a document takes too
//! long and ends by itself when it asks for more memory than it may have. Either way the document is a dead
//! letter with that reason, and the next one gets a new child.
//!
//! Over the child's pipes go frames: a length of four bytes, little-endian, then that much. The programs
//! first, answered by a single byte when they are compiled, then for each document a frame of the program's number (two bytes) and the document, answered by a
//! frame of one letter: `d` and a document, `n` for none, `e` and a reason.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::resource::{Resource, setrlimit},
};
use transform::{Jq, RunJq};

/// The command that the child is started with, instead of a service's name.
pub const WORKER: &str = "jq-worker";

/// The largest frame, in bytes: a document and room for what a program adds.
const LARGEST: usize = 256 << 20;
/// How long the child may take to compile the programs.
const START_WITHIN: Duration = Duration::from_secs(10);

/// Runs programs in a child.
#[derive(Debug)]
pub struct JqProcess {
    programs: Vec<String>,
    timeout: Duration,
    memory: u64,
    child: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

/// Why a child did not answer.
enum Silence {
    /// It took too long.
    Late,
    /// It has ended.
    Ended,
    /// It could not be started.
    NoChild(io::Error),
}

impl From<io::Error> for Silence {
    fn from(_: io::Error) -> Silence {
        Silence::Ended
    }
}

impl JqProcess {
    /// For these programs, each document with so much time and memory (in bytes). The child is started when it is
    /// needed.
    pub fn new(programs: &[String], timeout: Duration, memory: u64) -> JqProcess {
        JqProcess {
            programs: programs.to_vec(),
            timeout,
            memory,
            child: None,
        }
    }

    fn ask(&mut self, program: u16, document: &[u8]) -> Result<Vec<u8>, Silence> {
        if self.child.is_none() {
            let mut worker =
                Worker::start(&self.programs, self.memory).map_err(Silence::NoChild)?;
            // It compiles first, which is not the document's time.
            worker.read(&mut [0], Instant::now() + START_WITHIN)?;
            self.child = Some(worker);
        }
        let Some(worker) = &mut self.child else {
            return Err(Silence::Ended);
        };
        let mut head = Vec::with_capacity(6);
        head.extend(((document.len() + 2) as u32).to_le_bytes());
        head.extend(program.to_le_bytes());
        worker.input.write_all(&head)?;
        worker.input.write_all(document)?;
        worker.input.flush()?;
        let deadline = Instant::now() + self.timeout;
        let mut length = [0; 4];
        worker.read(&mut length, deadline)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LARGEST {
            return Err(Silence::Ended);
        }
        let mut answer = vec![0; length];
        worker.read(&mut answer, deadline)?;
        Ok(answer)
    }
}

impl RunJq for JqProcess {
    fn run(&mut self, program: usize, document: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let number = u16::try_from(program).map_err(|_| "there are too many programs")?;
        let answer = match self.ask(number, document) {
            Ok(answer) => answer,
            Err(silence) => {
                self.child = None;
                return Err(match silence {
                    Silence::Late => format!(
                        "the jq expression took longer than {:?} (--jq-timeout) and was stopped",
                        self.timeout
                    ),
                    Silence::Ended => format!(
                        "the jq expression asked for more memory than {} MB (--jq-memory), or too deep a \
                         recursion, and was stopped",
                        self.memory >> 20
                    ),
                    Silence::NoChild(error) => {
                        format!("the process for jq cannot be started: {error}")
                    }
                });
            }
        };
        match answer.split_first() {
            Some((b'd', document)) => Ok(Some(document.to_vec())),
            Some((b'n', _)) => Ok(None),
            Some((_, reason)) => Err(String::from_utf8_lossy(reason).into_owned()),
            None => Err("the process for jq does not answer".to_owned()),
        }
    }
}

impl Worker {
    fn start(programs: &[String], memory: u64) -> io::Result<Worker> {
        let mut child = Command::new("/proc/self/exe")
            .arg(WORKER)
            .arg(memory.to_string())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A stack overflow says so there, which is no news of ours.
            .stderr(Stdio::null())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (mut input, output) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(&(programs.len() as u32).to_le_bytes())?;
        for program in programs {
            write_frame(&mut input, program.as_bytes())?;
        }
        Ok(Worker {
            child,
            input,
            output,
        })
    }

    fn read(&mut self, mut into: &mut [u8], deadline: Instant) -> Result<(), Silence> {
        while !into.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that less than a millisecond is no busy loop.
            let left =
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let mut ready = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, left) {
                Ok(0) => return Err(Silence::Late),
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return Err(Silence::Ended),
            }
            match self.output.read(into)? {
                0 => return Err(Silence::Ended),
                read => into = &mut into[read..],
            }
        }
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may loop: it is not asked.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The child: runs the programs it is sent on the documents it is sent, until its input ends. The argument is
/// how much memory it may take, in bytes.
///
/// # Errors
/// When its input is not as it should be.
pub fn work(memory: &str) -> io::Result<()> {
    let memory: u64 = memory.parse().map_err(io::Error::other)?;
    setrlimit(Resource::RLIMIT_DATA, memory, memory).map_err(io::Error::from)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(io::Error::from)?;
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut count = [0; 4];
    input.read_exact(&mut count)?;
    let mut programs = Vec::new();
    for _ in 0..u32::from_le_bytes(count) {
        let program = read_frame(&mut input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        programs.push(String::from_utf8(program).map_err(io::Error::other)?);
    }
    let mut jq = Jq::compile(programs.iter().map(String::as_str)).map_err(io::Error::other)?;
    output.write_all(b"r")?;
    output.flush()?;
    while let Some(frame) = read_frame(&mut input)? {
        let (number, document) = frame
            .split_first_chunk::<2>()
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let answer = jq.run(u16::from_le_bytes(*number).into(), document);
        let (letter, rest) = match answer {
            Ok(Some(document)) => (b'd', document),
            Ok(None) => (b'n', Vec::new()),
            Err(reason) => (b'e', reason.into_bytes()),
        };
        output.write_all(&((rest.len() + 1) as u32).to_le_bytes())?;
        output.write_all(&[letter])?;
        output.write_all(&rest)?;
        output.flush()?;
    }
    Ok(())
}

fn write_frame(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&(bytes.len() as u32).to_le_bytes())?;
    to.write_all(bytes)
}

/// The next frame; `None` at the end of the input.
fn read_frame(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if let Err(error) = from.read_exact(&mut length) {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => Ok(None),
            _ => Err(error),
        };
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > LARGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    Ok(Some(frame))
}
