//! Which snapshots the cluster holds for whom. Each holds files and memory there, so a key has so many at most.
//!
//! A list that was read to its end leaves its snapshot open for whoever has lost the last page and asks again; it gives
//! way when the key needs room. What a caller lets go ends by itself, `--snapshot-time` after its last page: so does what
//! is counted here.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::problem::{Kind, Problem};

/// A snapshot as a cursor names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// What the cluster calls it, which can change from page to page.
    pub(crate) id: String,
    /// What it is called here.
    pub(crate) number: u64,
}

/// Those that are held, by key.
#[derive(Debug)]
pub(crate) struct Snapshots {
    most: usize,
    time: Duration,
    next: AtomicU64,
    held: Mutex<HashMap<String, Vec<Held>>>,
}

#[derive(Debug)]
struct Held {
    number: u64,
    /// `None` while it is being opened.
    id: Option<String>,
    until: Instant,
    is_read: bool,
}

/// Room for one more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// The number of the new one.
    pub(crate) number: u64,
    /// The one that was read to its end and has to be closed for it.
    pub(crate) gives_way: Option<String>,
}

impl Snapshots {
    /// So many for each key, each for so long after its last page.
    pub(crate) fn new(most: usize, time: Duration) -> Snapshots {
        Snapshots {
            most,
            time,
            // Processes that share a cursor secret may not take each other's for their own.
            next: AtomicU64::new(RandomState::new().hash_one(())),
            held: Mutex::default(),
        }
    }

    /// Room for a new one.
    ///
    /// # Errors
    /// When the key has as many as it may, and reads them all; it says when the first of them ends.
    pub(crate) fn begin(&self, key: &str, now: Instant) -> Result<Room, Problem> {
        let mut all = self.current(now);
        let held = all.entry(key.to_owned()).or_default();
        let mut gives_way = None;
        if held.len() >= self.most {
            let Some(read) = held.iter().position(|held| held.is_read) else {
                let soonest = held.iter().map(|held| held.until).min().unwrap_or(now);
                return Err(self.refused(soonest.saturating_duration_since(now)));
            };
            gives_way = held.remove(read).id;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        held.push(Held {
            number,
            id: None,
            until: now + self.time,
            is_read: false,
        });
        Ok(Room { number, gives_way })
    }

    fn refused(&self, pause: Duration) -> Problem {
        if self.most == 0 {
            let detail = "snapshots are switched off here; leave it out";
            return Problem::of(Kind::Forbidden, "snapshot", detail);
        }
        let detail = format!(
            "the key reads from {} snapshots, as many as it may; read one of them to its end, or come back when one is over",
            self.most
        );
        let problem = Problem::of(Kind::TooManyRequests, "snapshot", detail);
        problem.retry_after(pause.as_secs() + 1)
    }

    /// A page was read from it, and it is kept for the next. One that another process has opened counts from here on.
    pub(crate) fn keep(&self, key: &str, snapshot: &Snapshot, is_read: bool, now: Instant) {
        let mut all = self.current(now);
        let held = all.entry(key.to_owned()).or_default();
        held.retain(|held| held.number != snapshot.number);
        held.push(Held {
            number: snapshot.number,
            id: Some(snapshot.id.clone()),
            until: now + self.time,
            is_read,
        });
    }

    /// There is no such snapshot.
    pub(crate) fn forget(&self, key: &str, number: u64, now: Instant) {
        if let Some(held) = self.current(now).get_mut(key) {
            held.retain(|held| held.number != number);
        }
    }

    /// How many are held.
    pub(crate) fn count(&self, now: Instant) -> usize {
        self.current(now).values().map(Vec::len).sum()
    }

    fn current(&self, now: Instant) -> MutexGuard<'_, HashMap<String, Vec<Held>>> {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, held| {
            held.retain(|held| held.until > now);
            !held.is_empty()
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(number: u64) -> Snapshot {
        Snapshot {
            id: format!("pit{number}"),
            number,
        }
    }

    #[test]
    fn a_key_has_so_many_and_those_read_to_their_end_give_way() {
        let (snapshots, now) = (Snapshots::new(2, Duration::from_secs(60)), Instant::now());
        let one = snapshots.begin("web", now).unwrap().number;
        snapshots.keep("web", &snapshot(one), false, now);
        let two = snapshots.begin("web", now).unwrap().number;
        let later = now + Duration::from_secs(20);
        let refused = snapshots.begin("web", later).unwrap_err();
        assert_eq!(
            (refused.kind, refused.retry_after),
            (Kind::TooManyRequests, Some(41))
        );
        snapshots.begin("app", later).unwrap();
        snapshots.keep("web", &snapshot(one), true, later);
        let room = snapshots.begin("web", later).unwrap();
        assert_eq!(room.gives_way, Some(format!("pit{one}")));
        assert!(![one, two].contains(&room.number));
        assert!(snapshots.begin("web", later).is_err());
        snapshots.forget("web", two, later);
        assert_eq!(snapshots.begin("web", later).unwrap().gives_way, None);
    }

    #[test]
    fn what_nobody_reads_any_more_is_not_counted_and_what_another_process_opened_is() {
        let (snapshots, now) = (Snapshots::new(1, Duration::from_secs(60)), Instant::now());
        snapshots.begin("web", now).unwrap();
        assert!(
            snapshots
                .begin("web", now + Duration::from_secs(59))
                .is_err()
        );
        let later = now + Duration::from_secs(61);
        assert_eq!(snapshots.count(later), 0);
        snapshots.keep("web", &snapshot(7), false, later);
        assert!(snapshots.begin("web", later).is_err());
        assert_eq!(snapshots.count(later), 1);
    }

    #[test]
    fn where_there_may_be_none_nobody_is_told_to_come_back_for_one() {
        let refused = Snapshots::new(0, Duration::from_secs(60)).begin("web", Instant::now());
        let refused = refused.unwrap_err();
        assert_eq!((refused.kind, refused.retry_after), (Kind::Forbidden, None));
    }
}
