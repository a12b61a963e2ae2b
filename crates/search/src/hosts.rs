//! Which host is asked next.
//!
//! Hosts take turns. One that could not be reached is set aside for a pause that doubles with every
//! failure, and is asked again when the pause is over, or at once when no other is left: a host
//! that may be down is better than none.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A fixed list of hosts, by their numbers.
#[derive(Debug)]
pub(crate) struct Hosts {
    pauses: Mutex<Vec<Option<Pause>>>,
    turn: AtomicUsize,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Hosts {
    pub(crate) fn new(count: usize) -> Hosts {
        Hosts {
            pauses: Mutex::new(vec![None; count]),
            turn: AtomicUsize::new(0),
        }
    }

    /// Every host once, in the order in which to try them.
    pub(crate) fn order(&self, now: Instant) -> Vec<usize> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let pauses = self.pauses();
        let count = pauses.len();
        let mut order: Vec<usize> = (0..count).map(|n| turn.wrapping_add(n) % count).collect();
        // Stable: hosts that are not set aside keep their turn.
        order.sort_by_key(|&host| pauses[host].map(|p| p.until).filter(|&until| until > now));
        order
    }

    /// Notes that a host answered, whatever it said.
    pub(crate) fn answered(&self, host: usize) {
        self.pauses()[host] = None;
    }

    /// Notes that a host could not be reached.
    pub(crate) fn failed(&self, host: usize, now: Instant) {
        let pause = &mut self.pauses()[host];
        let length = pause.map_or(FIRST_PAUSE, |p| (p.length * 2).min(LONGEST_PAUSE));
        *pause = Some(Pause {
            until: now + length,
            length,
        });
    }

    fn pauses(&self) -> std::sync::MutexGuard<'_, Vec<Option<Pause>>> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_take_turns() {
        let hosts = Hosts::new(3);
        let now = Instant::now();
        assert_eq!(hosts.order(now), [0, 1, 2]);
        assert_eq!(hosts.order(now), [1, 2, 0]);
        assert_eq!(hosts.order(now), [2, 0, 1]);
    }

    #[test]
    fn a_host_that_failed_comes_last_until_its_pause_is_over_and_pauses_grow() {
        let hosts = Hosts::new(2);
        let now = Instant::now();
        hosts.failed(0, now);
        assert_eq!(hosts.order(now), [1, 0]);
        assert_eq!(hosts.order(now), [1, 0]);
        let later = now + FIRST_PAUSE;
        assert_eq!(hosts.order(later), [0, 1]);
        hosts.failed(0, later);
        assert_eq!(hosts.order(later + FIRST_PAUSE), [1, 0]);
        for _ in 0..20 {
            hosts.failed(0, later);
        }
        assert_eq!(hosts.order(later + LONGEST_PAUSE), [0, 1]);
    }

    #[test]
    fn a_host_that_answers_is_back_at_once() {
        let hosts = Hosts::new(2);
        let now = Instant::now();
        hosts.failed(0, now);
        hosts.answered(0);
        assert_eq!(hosts.order(now), [0, 1]);
    }

    #[test]
    fn when_all_are_set_aside_the_one_whose_pause_ends_first_is_tried_first() {
        let hosts = Hosts::new(2);
        let now = Instant::now();
        hosts.failed(0, now);
        hosts.failed(0, now);
        hosts.failed(1, now);
        assert_eq!(hosts.order(now), [1, 0]);
    }
}
