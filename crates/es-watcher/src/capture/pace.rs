//! How often to look at the source. Pure.
//!
//! While there is work, looks follow each other closely, but never so closely that watching takes
//! more than a quarter of the time: every look costs the source a request, and every round a
//! refresh. When nothing moves, the pauses double up to the poll interval.

use std::time::Duration;

/// The shortest pause.
const SHORTEST: Duration = Duration::from_millis(5);
/// How many times the cost of a round is waited before the next.
const REST: u32 = 3;

/// The pauses between looks.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    pause: Duration,
}

impl Pace {
    /// Pauses of at most `interval`.
    pub(crate) fn new(interval: Duration) -> Pace {
        Pace {
            interval,
            pause: SHORTEST.min(interval),
        }
    }

    /// The pause after a look that cost the source `cost`, refreshes included.
    pub(crate) fn next(&mut self, moved: bool, cost: Duration) -> Duration {
        let rest = (cost * REST).max(SHORTEST);
        self.pause = if moved {
            rest
        } else {
            (self.pause * 2).max(rest)
        }
        .min(self.interval);
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_short_under_load_and_grow_to_the_interval_when_idle() {
        let ms = Duration::from_millis;
        let mut pace = Pace::new(ms(100));
        assert_eq!(pace.next(true, ms(1)), ms(5));
        assert_eq!(
            pace.next(true, ms(10)),
            ms(30),
            "a costly look is followed by a longer rest"
        );
        assert_eq!(
            pace.next(true, ms(80)),
            ms(100),
            "but never longer than the interval"
        );
        assert_eq!(pace.next(true, ms(1)), ms(5));
        let idle: Vec<u128> = (0..6)
            .map(|_| pace.next(false, ms(1)).as_millis())
            .collect();
        assert_eq!(idle, [10, 20, 40, 80, 100, 100]);
    }
}
