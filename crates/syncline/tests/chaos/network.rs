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
}

impl fmt::Display for Troubles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connections {} times cut, {} half open, {} slow, {} truncated, {} refused",
            self.cut, self.half_open, self.slow, self.truncated, self.refused
        )
    }
}

/// Proxies in front of all servers.
pub(crate) struct Network {
    proxies: [ChaosProxy; 3],
    heal_at: [Option<Instant>; 3],
    pub(crate) troubles: Troubles,
}

impl Network {
    /// Puts itself between the processes of a pipeline that has not begun.
    pub(crate) async fn between(
        pipeline: &mut Pipeline,
        source: std::net::SocketAddr,
        target: std::net::SocketAddr,
    ) -> Result<Network> {
        let proxies = [
            ChaosProxy::start(source).await?,
            ChaosProxy::start(target).await?,
            ChaosProxy::start(pipeline.nats.address()).await?,
        ];
        pipeline.source = proxies[0].url("http");
        pipeline.target = proxies[1].url("http");
        pipeline.log = Some(proxies[2].url("nats"));
        Ok(Network {
            proxies,
            heal_at: [None; 3],
            troubles: Troubles::default(),
        })
    }

    /// Disturbs a link for a while.
    pub(crate) fn disturb(&mut self, link: Link, trouble: Trouble, lasts: Duration) {
        let (proxy, count) = (&self.proxies[link as usize], &mut self.troubles);
        let counted = match trouble {
            Trouble::Cut => {
                proxy.cut();
                &mut count.cut
            }
            Trouble::HalfOpen => {
                proxy.half_open();
                &mut count.half_open
            }
            Trouble::Slow(by) => {
                proxy.delay(by);
                &mut count.slow
            }
            Trouble::Truncated(after) => {
                proxy.truncate(after);
                &mut count.truncated
            }
            Trouble::Refused(status) => {
                proxy.refuse(status);
                &mut count.refused
            }
        };
        *counted += 1;
        self.heal_at[link as usize] = Some(Instant::now() + lasts);
    }

    /// Heals what has lasted long enough.
    pub(crate) fn heal(&mut self, now: Instant) {
        for (proxy, heal_at) in self.proxies.iter().zip(&mut self.heal_at) {
            if heal_at.is_some_and(|at| at <= now) {
                proxy.heal();
                *heal_at = None;
            }
        }
    }

    /// Heals everything.
    pub(crate) fn restore(&mut self) {
        for (proxy, heal_at) in self.proxies.iter().zip(&mut self.heal_at) {
            proxy.heal();
            *heal_at = None;
        }
    }
}
