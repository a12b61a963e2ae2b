//! Waiting longer and longer, and never in step with the others.
//!
//! "Decorrelated jitter" (AWS Architecture Blog, *Exponential Backoff and Jitter*): each delay is
//! drawn between the base and a multiple of the last. Full jitter was rejected because it may draw
//! nearly zero, which hammers a server that is just coming back.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The delays between attempts; pure, so a policy can be tested without waiting.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    factor: f64,
    last: Duration,
    attempts: u32,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Delays between `base` and `cap`, each at most three times the last.
    pub fn new(base: Duration, cap: Duration) -> Self {
        let cap = cap.max(base);
        let rng = fastrand::Rng::new();
        Self {
            base,
            cap,
            factor: 3.0,
            last: base,
            attempts: 0,
            rng,
        }
    }

    /// Replaces the growth; below 1 counts as 1.
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor.max(1.0);
        self
    }

    /// Makes the delays repeatable.
    pub fn seed(mut self, seed: u64) -> Self {
        self.rng = fastrand::Rng::with_seed(seed);
        self
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let base = self.base.as_secs_f64();
        let most = (self.last.as_secs_f64() * self.factor).min(self.cap.as_secs_f64());
        let drawn = base + (most - base) * self.rng.f64();
        self.last = Duration::from_secs_f64(drawn).clamp(self.base, self.cap);
        self.last
    }

    /// How many delays there were since the start or the last [`Backoff::reset`].
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Starts again from the base, after a success.
    pub fn reset(&mut self) {
        self.last = self.base;
        self.attempts = 0;
    }
}

/// Waits, unless the token is cancelled first; says whether it waited to the end.
#[must_use = "when it is false the caller has to stop"]
pub async fn sleep_or_cancelled(delay: Duration, token: &CancellationToken) -> bool {
    token
        .run_until_cancelled(tokio::time::sleep(delay))
        .await
        .is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;

    const BASE: Duration = Duration::from_millis(100);

    proptest! {
        #[test]
        fn every_delay_lies_between_base_and_cap_and_grows_by_at_most_the_factor(
            seed in any::<u64>(), cap in 0u64..100_000, factor in 0.0f64..10.0,
        ) {
            let cap = Duration::from_millis(cap);
            let mut backoff = Backoff::new(BASE, cap).factor(factor).seed(seed);
            let mut last = BASE;
            for _ in 0..30 {
                let delay = backoff.next_delay();
                prop_assert!(delay >= BASE && delay <= cap.max(BASE));
                prop_assert!(delay.as_secs_f64() <= last.as_secs_f64() * factor.max(1.0) + 1e-6);
                last = delay;
            }
        }
    }

    #[test]
    fn delays_reach_the_cap_and_start_again_after_a_reset() {
        let mut backoff = Backoff::new(BASE, Duration::from_secs(5)).seed(7);
        let longest = (0..200).map(|_| backoff.next_delay()).max().unwrap();
        assert!(longest > Duration::from_secs(4), "{longest:?}");
        assert_eq!(backoff.attempts(), 200);
        backoff.reset();
        assert!(backoff.next_delay() <= BASE * 3);
        assert_eq!(backoff.attempts(), 1);
    }

    #[test]
    fn two_processes_do_not_wait_in_step() {
        let delays = |seed| {
            let mut backoff = Backoff::new(BASE, Duration::from_secs(60)).seed(seed);
            (0..8).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_ends_by_time_or_by_the_token() {
        let token = CancellationToken::new();
        let start = Instant::now();
        assert!(sleep_or_cancelled(BASE, &token).await);
        assert!(start.elapsed() >= BASE);
        token.cancel();
        let start = Instant::now();
        assert!(!sleep_or_cancelled(Duration::from_secs(3600), &token).await);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
