//! Watchers, writers and a nats-server, and what happens to them.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use fastrand::Rng;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::Clock;
use tokio::time::sleep;

use crate::{
    LEASE,
    network::{LINKS, Link, Network, Trouble, Troubles, WRITERS},
    support::{
        lost_end::{copy_folder, remove_folder},
        pipeline::Pipeline,
        program::Program,
    },
};

/// What has been done so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    kills: usize,
    nats_kills: usize,
    pauses: usize,
    nats_pauses: usize,
    fenced: usize,
    full_disks: usize,
    clock_jumps: usize,
    lost_ends: usize,
    lost_all: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills and {} pauses ({} and {} of nats-server), {} fenced, {} disks full, {} \
             clock jumps, {} ends of streams lost and {} times all of them",
            self.kills + self.nats_kills,
            self.pauses + self.nats_pauses,
            self.nats_kills,
            self.nats_pauses,
            self.fenced,
            self.full_disks,
            self.clock_jumps,
            self.lost_ends,
            self.lost_all,
        )
    }
}

/// An actor: what it is, and its name.
type Actor = (Role, &'static str);

/// Who may be there; the writers first. All writers have one name and all watchers have one, so that whoever falls
/// silent has a successor.
const CAST: [Actor; 4] = [
    (Role::Writer, "writer-a"),
    (Role::Writer, "writer-b"),
    (Role::Watcher, "watcher-a"),
    (Role::Watcher, "watcher-b"),
];

/// What a fault hits.
#[derive(Debug, Clone, Copy)]
enum Victim {
    /// One actor, by its number.
    Actor(usize),
    Nats,
    Everybody,
    Link(Link),
    /// The disk of one actor.
    Disk(usize),
    /// The clock of one actor.
    Clock(usize),
    /// What nats-server had acknowledged and its machine had not synced.
    Power,
    /// What a writer has sent to the target, which comes there when another has gone on.
    Bulks(usize),
}

/// A writer whose bulks come late.
#[derive(Debug, Clone, Copy)]
struct Late {
    writer: usize,
    /// Whether it is paused or killed, and when: by then it has sent something. `None` once it is.
    falls: Option<(bool, Instant)>,
    /// When what it has sent comes to the target.
    arrives: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Watcher,
    Writer,
}

/// What an actor does at the moment.
enum State {
    Running(Program),
    /// Wakes up at that time.
    Paused(Program, Instant),
    /// Was killed; starts again at that time.
    Dead(Instant),
}

/// What the nats-server does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nats {
    Running,
    /// Takes what is sent and stores nothing, until that time.
    Paused(Instant),
    /// Was killed; starts again at that time.
    Dead(Instant),
}

/// Everything between source and target.
pub(crate) struct Actors {
    pipeline: Pipeline,
    network: Network,
    clocks: Vec<Clock>,
    /// When whose disk has room again.
    full: Vec<Option<Instant>>,
    late: Option<Late>,
    folder: TempDir,
    cast: &'static [Actor],
    actors: Vec<State>,
    nats: Nats,
    tally: Tally,
}

impl Actors {
    /// Starts all of them.
    pub(crate) async fn start(
        mut pipeline: Pipeline,
        (source, target): (SocketAddr, SocketAddr),
        random: &mut Rng,
    ) -> Result<Actors> {
        let cast = &CAST[..random.usize(3..5)];
        let network = Network::between(&mut pipeline, source, target).await?;
        let folder = tempfile::tempdir()?;
        let (mut actors, mut clocks) = (Vec::new(), Vec::new());
        for (at, actor) in cast.iter().enumerate() {
            let clock = Clock::new(folder.path(), actor.1)?;
            let program = start(&mut pipeline, &network, at, &clock)?;
            actors.push(State::Running(program));
            clocks.push(clock);
        }
        Ok(Actors {
            pipeline,
            network,
            clocks,
            full: vec![None; cast.len()],
            late: None,
            folder,
            cast,
            actors,
            nats: Nats::Running,
            tally: Tally::default(),
        })
    }

    /// Does harm until the time is over. Everything random is drawn before it is known how the
    /// processes have taken the harm before.
    pub(crate) async fn harass(&mut self, random: &mut Rng, until: Instant) -> Result<()> {
        let mut next = Instant::now() + Duration::from_millis(random.u64(300..1500));
        while Instant::now() < until {
            self.revive().await?;
            if Instant::now() >= next {
                next = Instant::now() + Duration::from_millis(random.u64(50..1200));
                let (victim, severity) = (self.victim(random), random.u32(0..10));
                let away = Duration::from_millis(random.u64(0..1500));
                let paused = Duration::from_millis(random.u64(100..2 * LEASE.as_millis() as u64));
                let jump = random.i64(-86_400_000..86_400_000);
                let trouble = Trouble::draw(
                    random,
                    if let Victim::Link(link) = victim {
                        link
                    } else {
                        Link::Log
                    },
                );
                match victim {
                    Victim::Actor(actor) => self.harm(actor, severity < 4, away, paused).await?,
                    Victim::Nats => self.harm_nats(severity < 5, away, paused)?,
                    Victim::Everybody => self.kill_all(away).await?,
                    Victim::Link(link) => self.network.disturb(link, trouble, paused),
                    Victim::Disk(actor) => self.fill_disk(actor, away)?,
                    Victim::Clock(actor) => {
                        self.tally.clock_jumps += 1;
                        self.clocks[actor].set(jump)?;
                    }
                    Victim::Power => self.cut_power(severity < 2, away)?,
                    Victim::Bulks(writer) => self.delay_bulks(writer, severity < 5, away),
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn victim(&self, random: &mut Rng) -> Victim {
        let actor = random.usize(0..self.cast.len());
        let link = LINKS[random.usize(0..LINKS.len())];
        let writer = random.usize(0..WRITERS);
        match random.u32(0..100) {
            0..29 => Victim::Actor(actor),
            29..43 => Victim::Nats,
            43..49 => Victim::Everybody,
            49..79 => Victim::Link(link),
            79..84 => Victim::Disk(actor),
            84..88 => Victim::Clock(actor),
            88..94 => Victim::Power,
            _ => Victim::Bulks(writer),
        }
    }

    /// Pauses or kills one.
    async fn harm(
        &mut self,
        actor: usize,
        pauses: bool,
        away: Duration,
        paused: Duration,
    ) -> Result<()> {
        let back = Instant::now() + away;
        let actor = &mut self.actors[actor];
        *actor = match std::mem::replace(actor, State::Dead(back)) {
            State::Running(program) if pauses => {
                self.tally.pauses += 1;
                program.signal(Signal::SIGSTOP)?;
                State::Paused(program, Instant::now() + paused)
            }
            State::Running(program) | State::Paused(program, _) => {
                self.tally.kills += 1;
                program.kill().await?;
                State::Dead(back)
            }
            dead => dead,
        };
        Ok(())
    }

    fn harm_nats(&mut self, pauses: bool, away: Duration, paused: Duration) -> Result<()> {
        self.nats = match self.nats {
            Nats::Running if pauses => {
                self.tally.nats_pauses += 1;
                self.signal_nats(Signal::SIGSTOP)?;
                Nats::Paused(Instant::now() + paused)
            }
            Nats::Running | Nats::Paused(_) => {
                self.tally.nats_kills += 1;
                self.pipeline.nats.kill();
                self.sync_disk()?;
                Nats::Dead(Instant::now() + away)
            }
            dead => dead,
        };
        Ok(())
    }

    /// Keeps what nats-server has stored now, for the next power cut.
    fn sync_disk(&self) -> Result<()> {
        let (store, synced) = (self.pipeline.store(), self.folder.path().join("synced"));
        match store.exists() && !synced.exists() {
            true => copy_folder(&store, &synced),
            false => Ok(()),
        }
    }

    /// What a power cut does to nats-server's disk: it has what was synced at some earlier time, or nothing at all.
    fn cut_power(&mut self, loses_all: bool, away: Duration) -> Result<()> {
        self.harm_nats(false, away, away)?;
        let (store, synced) = (self.pipeline.store(), self.folder.path().join("synced"));
        if loses_all {
            self.tally.lost_all += 1;
            remove_folder(&store)?;
        } else if synced.exists() {
            self.tally.lost_ends += 1;
            remove_folder(&store)?;
            std::fs::rename(&synced, &store)?;
        }
        Ok(())
    }

    /// What a power cut does to the processes: what was under way between them is gone.
    async fn kill_all(&mut self, away: Duration) -> Result<()> {
        self.harm_nats(false, away, away)?;
        for actor in 0..self.cast.len() {
            self.harm(actor, false, away, away).await?;
        }
        Ok(())
    }

    /// Nothing fits on an actor's disk for a while.
    fn fill_disk(&mut self, actor: usize, lasts: Duration) -> Result<()> {
        if let State::Running(program) = &self.actors[actor] {
            self.tally.full_disks += 1;
            program.limit_files("1")?;
            self.full[actor] = Some(Instant::now() + lasts);
        }
        Ok(())
    }

    /// Keeps back what a writer sends, lets it fall, and hands it over when its successor has gone on: what
    /// was sent first comes last, and twice.
    fn delay_bulks(&mut self, writer: usize, pauses: bool, sends: Duration) {
        if self.late.is_none() && matches!(self.actors[writer], State::Running(_)) {
            let falls = Instant::now() + sends / 2;
            self.network.hold(writer);
            self.late = Some(Late {
                writer,
                falls: Some((pauses, falls)),
                arrives: falls + LEASE * 2,
            });
        }
    }

    /// Goes on with that.
    async fn see_to_late_bulks(&mut self, now: Instant) -> Result<()> {
        let Some(mut late) = self.late else {
            return Ok(());
        };
        if let Some((pauses, at)) = late.falls
            && at <= now
        {
            late.falls = None;
            let away = late.arrives.saturating_duration_since(now);
            self.harm(late.writer, pauses, away, away).await?;
        }
        self.late = (late.arrives > now).then_some(late);
        if self.late.is_none() {
            self.network.let_go();
        }
        Ok(())
    }

    fn signal_nats(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pipeline.nats.pid())?;
        Ok(nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            signal,
        )?)
    }

    /// Brings back whose time has come, as a supervisor does, and looks for those that have ended
    /// by themselves.
    async fn revive(&mut self) -> Result<()> {
        match self.nats {
            Nats::Paused(back) if back <= Instant::now() => {
                self.signal_nats(Signal::SIGCONT)?;
                self.nats = Nats::Running;
            }
            Nats::Dead(back) if back <= Instant::now() => {
                self.pipeline.nats.restart().await?;
                self.nats = Nats::Running;
            }
            _ => {}
        }
        let now = Instant::now();
        self.see_to_late_bulks(now).await?;
        self.network.heal(now);
        for (state, full) in self.actors.iter().zip(&mut self.full) {
            if full.is_some_and(|until| until <= now) {
                *full = None;
                if let State::Running(program) | State::Paused(program, _) = state {
                    program.limit_files("unlimited")?;
                }
            }
        }
        for at in 0..self.cast.len() {
            let state = std::mem::replace(&mut self.actors[at], State::Dead(Instant::now()));
            self.actors[at] = match state {
                State::Dead(back) if back <= Instant::now() => {
                    self.full[at] = None;
                    let (pipeline, network) = (&mut self.pipeline, &self.network);
                    State::Running(start(pipeline, network, at, &self.clocks[at])?)
                }
                State::Paused(program, back) if back <= Instant::now() => {
                    program.signal(Signal::SIGCONT)?;
                    State::Running(program)
                }
                State::Running(mut program) => match program.ended()? {
                    None => State::Running(program),
                    Some(status) => {
                        let words = last_error(&program);
                        // The only reason to end: a pause that was longer than the lease.
                        if status.code() != Some(1) || !words.contains("lease") {
                            bail!("{} ended with {status}: {words}", self.cast[at].1);
                        }
                        self.tally.fenced += 1;
                        State::Dead(Instant::now())
                    }
                },
                other => other,
            };
        }
        Ok(())
    }

    /// Ends all harm.
    pub(crate) async fn restore(&mut self) -> Result<()> {
        let now = Instant::now();
        self.late = None;
        self.network.restore();
        for full in self.full.iter_mut().flatten() {
            *full = now;
        }
        self.nats = match self.nats {
            Nats::Running => Nats::Running,
            Nats::Paused(_) => Nats::Paused(now),
            Nats::Dead(_) => Nats::Dead(now),
        };
        for actor in &mut self.actors {
            *actor = match std::mem::replace(actor, State::Dead(now)) {
                State::Paused(program, _) => State::Paused(program, now),
                State::Dead(_) => State::Dead(now),
                running => running,
            };
        }
        self.revive().await
    }

    /// Restarts those that still end because of an earlier pause; returns only when one may not.
    pub(crate) async fn tend(&mut self) -> Error {
        loop {
            if let Err(error) = self.revive().await {
                return error;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops all of them in order.
    pub(crate) async fn stop(mut self) -> Result<(Tally, Troubles)> {
        for (state, (_, name)) in self.actors.drain(..).zip(self.cast) {
            match state {
                State::Running(program) => {
                    // Nobody else has written the target, and nobody may be accused of it.
                    let foreign = program
                        .metric("syncline_writer_foreign_versions_total")
                        .await?;
                    ensure!(foreign == 0.0, "{name} finds {foreign} foreign versions");
                    let stopped = program.stop().await;
                    stopped.with_context(|| format!("{name} at the end"))?;
                }
                State::Paused(..) | State::Dead(_) => {
                    return Err(anyhow!("{name} is not running at the end"));
                }
            }
        }
        Ok((self.tally, self.network.troubles))
    }

    /// The ends of all logs.
    pub(crate) fn last_words(&self) -> String {
        let words = self.actors.iter().zip(self.cast).map(|(state, (_, name))| {
            let words = match state {
                State::Running(program) | State::Paused(program, _) => program.last_words(),
                State::Dead(_) => "not running".to_owned(),
            };
            format!("{name}:\n{words}\n")
        });
        words.collect()
    }
}

/// Starts the actor of that number.
fn start(pipeline: &mut Pipeline, network: &Network, at: usize, clock: &Clock) -> Result<Program> {
    let arguments = match CAST[at].0 {
        // The ledger is one, as on one machine, so that whoever takes over knows what was published.
        Role::Watcher => pipeline.watcher_arguments("watcher"),
        Role::Writer => {
            pipeline.target = network.target_of(at);
            pipeline.writer_arguments("es-writer")
        }
    };
    Program::start_where_the_disk_may_fill_with(arguments, clock.variables())
}

/// Why a program has ended, as it says itself.
fn last_error(program: &Program) -> String {
    let log = program.log();
    let error = log.iter().rev().find(|line| line.starts_with("error: "));
    error.cloned().unwrap_or_else(|| program.last_words())
}
