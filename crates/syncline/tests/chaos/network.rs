//! What lies between the processes, and what happens there.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::Result;
use fastrand::Rng;
use testkit::ChaosProxy;

use crate::support::pipeline::Pipeline;

/// A connection between two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// Watchers to the source.
    Source,
    /// Writers to the target.
    Target,
    /// Both to the nats-server.
    Log,
}

/// How many writers there are.
pub(crate) const WRITERS: usize = 2;

pub(crate) const LINKS: [Link; 3] = [Link::Source, Link::Target, Link::Log];

/// What happens to a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    /// It breaks, and so does every new one.
    Cut,
    /// It stands and nothing comes through.
    HalfOpen,
    /// Each piece comes later.
    Slow(Duration),
    /// Answers break off in the middle.
    Truncated(usize),
    /// The server says that it is busy (429) or not there (503).
    Refused(u16),
}

impl Trouble {
    /// Of any kind that a link can have: nats-server does not speak HTTP.
    pub(crate) fn draw(random: &mut Rng, link: Link) -> Trouble {
        match random.u32(0..if link == Link::Log { 4 } else { 7 }) {
            0 => Trouble::Cut,
            1 => Trouble::HalfOpen,
            2 => Trouble::Slow(Duration::from_millis(random.u64(5..200))),
            3 => Trouble::Truncated(random.usize(0..20_000)),
            4 | 5 => Trouble::Refused(429),
            _ => Trouble::Refused(503),
        }
    }
}

/// How often each has happened.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Troubles {
    cut: usize,
    half_open: usize,
    slow: usize,
    truncated: usize,
    refused: usize,
    late: usize,
}

impl fmt::Display for Troubles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connections {} times cut, {} half open, {} slow, {} truncated, {} refused, {} times \
             bulks came late",
            self.cut, self.half_open, self.slow, self.truncated, self.refused, self.late
        )
    }
}

/// Proxies in front of all servers; each writer has its own to the target.
pub(crate) struct Network {
    source: ChaosProxy,
    targets: [ChaosProxy; WRITERS],
    log: ChaosProxy,
    heal_at: [Option<Instant>; 3],
    /// The writer whose requests to the target are kept back.
    held: Option<usize>,
    pub(crate) troubles: Troubles,
}

impl Network {
    /// Puts itself between the processes of a pipeline that has not begun. Where a writer finds the target
    /// says [`Network::target_of`].
    pub(crate) async fn between(
        pipeline: &mut Pipeline,
        source: std::net::SocketAddr,
        target: std::net::SocketAddr,
    ) -> Result<Network> {
        let network = Network {
            source: ChaosProxy::start(source).await?,
            targets: [
                ChaosProxy::start(target).await?,
                ChaosProxy::start(target).await?,
            ],
            log: ChaosProxy::start(pipeline.nats.address()).await?,
            heal_at: [None; 3],
            held: None,
            troubles: Troubles::default(),
        };
        pipeline.source = network.source.url("http");
        pipeline.log = Some(network.log.url("nats"));
        Ok(network)
    }

    /// The target's address for a writer.
    pub(crate) fn target_of(&self, writer: usize) -> String {
        self.targets[writer].url("http")
    }

    /// The proxies of a link, but for one that keeps something back.
    fn proxies(&self, link: Link) -> Vec<&ChaosProxy> {
        match link {
            Link::Source => vec![&self.source],
            Link::Log => vec![&self.log],
            Link::Target => {
                let targets = self.targets.iter().enumerate();
                let free = targets.filter(|(writer, _)| self.held != Some(*writer));
                free.map(|(_, proxy)| proxy).collect()
            }
        }
    }

    /// Disturbs a link for a while.
    pub(crate) fn disturb(&mut self, link: Link, trouble: Trouble, lasts: Duration) {
        for proxy in self.proxies(link) {
            match trouble {
                Trouble::Cut => proxy.cut(),
                Trouble::HalfOpen => proxy.half_open(),
                Trouble::Slow(by) => proxy.delay(by),
                Trouble::Truncated(after) => proxy.truncate(after),
                Trouble::Refused(status) => proxy.refuse(status),
            }
        }
        let count = &mut self.troubles;
        *match trouble {
            Trouble::Cut => &mut count.cut,
            Trouble::HalfOpen => &mut count.half_open,
            Trouble::Slow(_) => &mut count.slow,
            Trouble::Truncated(_) => &mut count.truncated,
            Trouble::Refused(_) => &mut count.refused,
        } += 1;
        self.heal_at[link as usize] = Some(Instant::now() + lasts);
    }

    /// Keeps back what a writer sends to the target from now on.
    pub(crate) fn hold(&mut self, writer: usize) {
        self.targets[writer].half_open();
        self.held = Some(writer);
        self.troubles.late += 1;
    }

    /// Lets go of it, however late it is.
    pub(crate) fn let_go(&mut self) {
        if let Some(writer) = self.held.take() {
            self.targets[writer].heal();
        }
    }

    /// Heals what has lasted long enough.
    pub(crate) fn heal(&mut self, now: Instant) {
        for link in LINKS {
            if self.heal_at[link as usize].is_some_and(|at| at <= now) {
                self.proxies(link).iter().for_each(|proxy| proxy.heal());
                self.heal_at[link as usize] = None;
            }
        }
    }

    /// Heals everything.
    pub(crate) fn restore(&mut self) {
        self.let_go();
        for link in LINKS {
            self.proxies(link).iter().for_each(|proxy| proxy.heal());
            self.heal_at[link as usize] = None;
        }
    }
}
