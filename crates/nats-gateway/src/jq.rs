//! jq programs in a process of their own.
//!
//! An interpreter cannot be stopped from inside: a program that loops never comes back, one that builds a
//! giant never lets go. So programs run in a child of this process, which is killed when a document takes too
//! long and ends by itself when it asks for more memory than it may have. Either way the document is a dead
//! letter with that reason, and the next one gets a new child.
//!
//! Over the child's pipes go frames: a length of four bytes, little-endian, then that much. The programs
//! first, answered by a single byte when they are compiled, then for each document a frame of the program's number (two
//! bytes) and the document, answered by a frame of one letter: `d` and a document, `n` for none, `e` and a reason.
//!
//! Documents are sent ahead of the answers, as many as fit into the pipe, so that the two processes do not wait for each
//! other at every one. Where an answer is missing then, nobody knows yet which document is to blame: those that were
//! sent go to a new child once more, one at a time, each with all the time and memory it may have.

use std::{
    io::{self, BufReader, BufWriter, Read, Write},
    os::fd::AsFd,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::resource::{Resource, setrlimit},
};
use transform::{Answer, Jq, Question, RunJq};

/// The command that the child is started with, instead of a service's name.
pub const WORKER: &str = "jq-worker";

/// The largest frame, in bytes: a document and room for what a program adds.
const LARGEST: usize = 256 << 20;
/// How much is sent ahead of the answers, in bytes. A pipe takes 64 KiB, of which small writes can waste half; what is
/// sent ahead always fits, so that sending never waits for a child that waits for us.
const AHEAD: usize = 32 << 10;
/// How long the child may keep answers to send several at once.
const FLUSH_AFTER: Duration = Duration::from_millis(2);
/// How long the child may take to compile the programs.
const START_WITHIN: Duration = Duration::from_secs(10);

/// The processes of one rule set: as many as work at once, each kept for the next batch.
#[derive(Debug)]
pub(crate) struct JqPool {
    programs: Arc<[String]>,
    timeout: Duration,
    memory: u64,
    idle: Mutex<Vec<JqProcess>>,
}

impl JqPool {
    /// For these programs, each document with so much time and memory (in bytes).
    pub(crate) fn new(programs: &[String], timeout: Duration, memory: u64) -> JqPool {
        JqPool {
            programs: programs.into(),
            timeout,
            memory,
            idle: Mutex::default(),
        }
    }

    /// One of them; the child is started when it is needed.
    pub(crate) fn take(&self) -> JqProcess {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        idle.unwrap_or_else(|| JqProcess {
            programs: Arc::clone(&self.programs),
            timeout: self.timeout,
            memory: self.memory,
            child: None,
        })
    }

    /// Keeps it for the next one who takes one.
    pub(crate) fn put_back(&self, process: JqProcess) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(process);
    }
}

/// Runs programs in a child.
#[derive(Debug)]
pub struct JqProcess {
    programs: Arc<[String]>,
    timeout: Duration,
    memory: u64,
    child: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// What was read of the output and is not used yet.
    read: BytesMut,
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
        JqPool::new(programs, timeout, memory).take()
    }

    fn worker(&mut self) -> Result<&mut Worker, Silence> {
        if self.child.is_none() {
            let mut worker =
                Worker::start(&self.programs, self.memory).map_err(Silence::NoChild)?;
            // It compiles first, which is not the document's time.
            worker.wait_until_compiled()?;
            self.child = Some(worker);
        }
        self.child.as_mut().ok_or(Silence::Ended)
    }

    /// Adds the answers to the questions that have none yet, until the child falls silent.
    fn ask(
        &mut self,
        questions: &[Question],
        answers: &mut Vec<Answer>,
        sent: &mut Sent,
    ) -> Result<(), Silence> {
        let timeout = self.timeout;
        let worker = self.worker()?;
        while answers.len() < questions.len() {
            let frames = sent.more(questions, answers.len());
            if !frames.is_empty() {
                worker.input.write_all(&frames)?;
            }
            let answer = worker.read_frame(Instant::now() + timeout)?;
            answers.push(read_answer(answer));
        }
        Ok(())
    }

    /// What is said of a document that the child fell silent over.
    fn blame(&self, silence: &Silence) -> String {
        match silence {
            Silence::Late => format!(
                "the jq expression took longer than {:?} (--jq-timeout) and was stopped",
                self.timeout
            ),
            Silence::Ended => format!(
                "the jq expression asked for more memory than {} MB (--jq-memory), or too deep a recursion, and was \
                 stopped",
                self.memory >> 20
            ),
            Silence::NoChild(error) => format!("the process for jq cannot be started: {error}"),
        }
    }
}

impl RunJq for JqProcess {
    fn run(&mut self, question: &Question) -> Answer {
        let mut answers = self.run_all(std::slice::from_ref(question));
        answers.pop().unwrap_or_else(|| read_answer(Bytes::new()))
    }

    fn run_all(&mut self, questions: &[Question]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(questions.len());
        let mut sent = Sent::default();
        while let Err(silence) = self.ask(questions, &mut answers, &mut sent) {
            self.child = None;
            if sent.is_one(answers.len()) {
                answers.push(Err(self.blame(&silence)));
            }
            sent.is_lost(answers.len());
        }
        answers
    }
}

/// How many questions the child has.
#[derive(Debug, Default)]
struct Sent {
    questions: usize,
    /// Up to here questions are sent one at a time, as one of them is to blame for a silence.
    singly_until: usize,
}

impl Sent {
    /// The frames that go out now, where so many questions are answered: one always, and more while they fit into the
    /// pipe together.
    fn more(&mut self, questions: &[Question], answered: usize) -> Vec<u8> {
        let length = |question: &Question| question.document.len() + 6;
        let waiting = questions.get(answered..self.questions).unwrap_or_default();
        let mut ahead: usize = waiting.iter().map(length).sum();
        let mut frames = Vec::new();
        // In large portions: every write wakes the child.
        if ahead > AHEAD / 2 {
            return frames;
        }
        while let Some(question) = questions.get(self.questions) {
            let is_first = self.questions == answered;
            let fits = ahead + length(question) <= AHEAD && answered >= self.singly_until;
            if !is_first && !fits {
                break;
            }
            ahead += length(question);
            frames.extend(((question.document.len() + 2) as u32).to_le_bytes());
            let program = u16::try_from(question.program).unwrap_or(u16::MAX);
            frames.extend(program.to_le_bytes());
            frames.extend_from_slice(&question.document);
            self.questions += 1;
        }
        frames
    }

    /// Whether the child has a single question, so that it is that one's fault; or none, so that it cannot be started.
    fn is_one(&self, answered: usize) -> bool {
        self.questions <= answered + 1
    }

    /// What was sent and not answered is sent anew, singly.
    fn is_lost(&mut self, answered: usize) {
        self.singly_until = self.singly_until.max(self.questions);
        self.questions = answered;
    }
}

fn read_answer(frame: Bytes) -> Answer {
    match frame.split_first() {
        Some((b'd', _)) => Ok(Some(frame.slice(1..))),
        Some((b'n', _)) => Ok(None),
        Some((_, reason)) => Err(String::from_utf8_lossy(reason).into_owned()),
        None => Err("the process for jq does not answer".to_owned()),
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
            read: BytesMut::new(),
        })
    }

    fn wait_until_compiled(&mut self) -> Result<(), Silence> {
        self.fill(1, Instant::now() + START_WITHIN)?;
        self.read.advance(1);
        Ok(())
    }

    /// The next frame of its output.
    fn read_frame(&mut self, deadline: Instant) -> Result<Bytes, Silence> {
        self.fill(4, deadline)?;
        let length = self.read.first_chunk::<4>().copied().unwrap_or_default();
        let length = u32::from_le_bytes(length) as usize;
        if length > LARGEST {
            return Err(Silence::Ended);
        }
        self.fill(4 + length, deadline)?;
        self.read.advance(4);
        Ok(self.read.split_to(length).freeze())
    }

    /// Reads until there are so many bytes.
    fn fill(&mut self, length: usize, deadline: Instant) -> Result<(), Silence> {
        while self.read.len() < length {
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
            let mut chunk = [0; 16 << 10];
            match self.output.read(&mut chunk)? {
                0 => return Err(Silence::Ended),
                read => self.read.extend_from_slice(&chunk[..read]),
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
    let mut input = BufReader::with_capacity(AHEAD, io::stdin().lock());
    let mut output = BufWriter::with_capacity(AHEAD, io::stdout().lock());
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
    let mut flushed = Instant::now();
    while let Some(frame) = read_frame(&mut input)? {
        let (number, document) = frame
            .split_first_chunk::<2>()
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let answer = jq.run(&Question {
            program: u16::from_le_bytes(*number).into(),
            document: Bytes::copy_from_slice(document),
        });
        let (letter, rest) = match answer {
            Ok(Some(document)) => (b'd', document),
            Ok(None) => (b'n', Bytes::new()),
            Err(reason) => (b'e', Bytes::from(reason)),
        };
        output.write_all(&((rest.len() + 1) as u32).to_le_bytes())?;
        output.write_all(&[letter])?;
        output.write_all(&rest)?;
        // Whoever waits has sent nothing more, or has waited long enough to think the next document slow.
        if input.buffer().is_empty() || flushed.elapsed() >= FLUSH_AFTER {
            output.flush()?;
            flushed = Instant::now();
        }
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
