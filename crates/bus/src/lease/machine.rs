//! Who holds a lease: the decisions, without clocks or network.
//!
//! A holder renews its record by compare-and-set before its lease runs out, and considers itself the
//! holder until `start of the last successful renewal + lease - margin`, on its own clock. A taker
//! replaces the record, by compare-and-set too, once it has seen the same revision for the whole
//! lease on *its* own clock. The taker cannot have seen the revision before the renewal started, so
//! the former holder's time is over by then; no two clocks are ever compared, only their pace.
//!
//! A write that got no answer may still be stored later. So a record is never taken for ours because
//! it looks like ours: it only tells the revision for the next compare-and-set, and time counts from
//! the start of a write whose success was told.
//!
//! A revision below one that was known is that of a replica that lags, or of a server that has lost what it
//! had not synced when its power failed. A compare-and-set tells them apart: only the server that decides
//! carries it out. For the rest of a lease that was lost with its record, two may hold it; what they
//! write is told apart by token and version.

use std::time::{Duration, Instant};

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What the next compare-and-set has to expect.
    pub(crate) revision: u64,
    /// `None` where there is no record.
    pub(crate) record: Option<SeenRecord>,
}

/// What a record says about its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenRecord {
    pub(crate) holder: String,
    /// False once the holder has given it back.
    pub(crate) held: bool,
    pub(crate) lease: Duration,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The record was read.
    Seen(Seen),
    /// The write was stored.
    Stored {
        /// As this revision.
        revision: u64,
    },
    /// Reading or writing was refused or not answered.
    Unclear,
    /// It is time to look again, or there is something to store (`dirty`).
    Tick {
        /// Whether the holder's floor has moved.
        dirty: bool,
    },
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Read the record.
    Read,
    /// Write a record that says we hold it, expecting this revision.
    Write {
        /// The expected revision; 0 where there is none.
        revision: u64,
        /// Whether this makes us the holder, rather than keep us so.
        take: bool,
    },
    /// Wait, then tick.
    Wait(Duration),
    /// It is lost for good.
    Stop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Somebody else holds it, perhaps. The newest revision seen, and when it was first seen.
    Standing { watched: Option<(u64, Instant)> },
    /// A write is under way that makes us the holder.
    Taking { started: Instant },
    /// We hold it.
    Held {
        revision: u64,
        renewed: Instant,
        writing: Option<Instant>,
    },
    /// Somebody else has taken it from us.
    Lost,
}

/// The decisions of one process about one lease.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    me: String,
    lease: Duration,
    state: State,
}

impl Machine {
    /// A process that wants the lease. `me` must be used by no other process, ever.
    pub(crate) fn new(me: String, lease: Duration) -> Machine {
        Machine {
            me,
            lease,
            state: State::Standing { watched: None },
        }
    }

    /// Decides what to do after an event.
    pub(crate) fn step(&mut self, event: &Event, now: Instant) -> Command {
        match self.state {
            State::Standing { watched } => self.standing(watched, event, now),
            State::Taking { started } => match event {
                Event::Stored { revision } => {
                    self.state = State::Held {
                        revision: *revision,
                        renewed: started,
                        writing: None,
                    };
                    Command::Wait(self.renew_after())
                }
                _ => {
                    self.state = State::Standing { watched: None };
                    Command::Read
                }
            },
            State::Held {
                revision,
                renewed,
                writing,
            } => self.held(revision, renewed, writing, event, now),
            State::Lost => Command::Stop,
        }
    }

    /// Until when we may act as the holder; `None` when we are not.
    pub(crate) fn valid_until(&self) -> Option<Instant> {
        match self.state {
            State::Held { renewed, .. } => Some(renewed + self.lease - self.margin()),
            _ => None,
        }
    }

    /// Whether we hold it, be it for a time that is over.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.state, State::Held { .. })
    }

    /// The revision of our own record, when we hold it.
    pub(crate) fn revision(&self) -> Option<u64> {
        match self.state {
            State::Held { revision, .. } => Some(revision),
            _ => None,
        }
    }

    /// What a request may take that was sent at the last moment.
    fn margin(&self) -> Duration {
        self.lease / 10
    }

    fn renew_after(&self) -> Duration {
        self.lease / 3
    }

    /// How often a record that is not ours is looked at.
    fn look_after(&self) -> Duration {
        (self.lease / 20).clamp(Duration::from_millis(20), Duration::from_millis(500))
    }

    fn standing(
        &mut self,
        watched: Option<(u64, Instant)>,
        event: &Event,
        now: Instant,
    ) -> Command {
        let seen = match event {
            Event::Seen(seen) => seen,
            Event::Tick { .. } => return Command::Read,
            Event::Stored { .. } | Event::Unclear => return Command::Wait(self.look_after()),
        };
        let Some(record) = &seen.record else {
            return self.take(seen.revision, now);
        };
        // Nobody else acts under our name, and we are not acting: a write of ours came late.
        if !record.held || record.holder == self.me {
            return self.take(seen.revision, now);
        }
        match watched {
            Some((revision, since)) if seen.revision == revision => {
                if now.duration_since(since) >= record.lease {
                    return self.take(revision, now);
                }
            }
            // A lower one, too, is watched from now on: if only a replica lags, taking it fails.
            _ => {
                self.state = State::Standing {
                    watched: Some((seen.revision, now)),
                }
            }
        }
        Command::Wait(self.look_after())
    }

    fn take(&mut self, revision: u64, now: Instant) -> Command {
        self.state = State::Taking { started: now };
        Command::Write {
            revision,
            take: true,
        }
    }

    /// Whether what was seen is ours to renew: our own record, or none where there was ours and nobody has
    /// removed it, which would be a later revision.
    fn may_renew(&self, seen: &Seen, revision: u64) -> bool {
        match &seen.record {
            Some(record) => record.holder == self.me,
            None => seen.revision < revision,
        }
    }

    fn held(
        &mut self,
        revision: u64,
        renewed: Instant,
        writing: Option<Instant>,
        event: &Event,
        now: Instant,
    ) -> Command {
        match event {
            Event::Stored { revision } => {
                let renewed = writing.unwrap_or(renewed);
                self.state = State::Held {
                    revision: *revision,
                    renewed,
                    writing: None,
                };
                Command::Wait(
                    self.renew_after()
                        .saturating_sub(now.duration_since(renewed)),
                )
            }
            Event::Unclear if writing.is_some() => {
                self.state = State::Held {
                    revision,
                    renewed,
                    writing: None,
                };
                Command::Read
            }
            Event::Unclear => Command::Wait(self.look_after()),
            Event::Seen(seen) if self.may_renew(seen, revision) => {
                self.state = State::Held {
                    revision: seen.revision,
                    renewed,
                    writing: Some(now),
                };
                Command::Write {
                    revision: seen.revision,
                    take: false,
                }
            }
            // Somebody else's from before ours. It is not old any more when our time is over.
            Event::Seen(seen)
                if seen.revision < revision && now.duration_since(renewed) < self.lease =>
            {
                Command::Wait(self.look_after())
            }
            Event::Seen(_) => {
                self.state = State::Lost;
                Command::Stop
            }
            Event::Tick { dirty } => {
                let due = self
                    .renew_after()
                    .saturating_sub(now.duration_since(renewed));
                if !dirty && !due.is_zero() {
                    return Command::Wait(due);
                }
                self.state = State::Held {
                    revision,
                    renewed,
                    writing: Some(now),
                };
                Command::Write {
                    revision,
                    take: false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
