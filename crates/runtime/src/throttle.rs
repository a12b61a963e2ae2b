//! No more documents a second than an operator allows.

use std::{
    num::NonZeroU64,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Shared by all who take from one budget.
#[derive(Debug)]
pub struct Throttle {
    rate: Option<NonZeroU64>,
    /// When what was taken so far is paid for.
    free: Mutex<Instant>,
}

impl Throttle {
    /// A budget of so many a second; without a rate nobody ever waits.
    pub fn new(rate: Option<NonZeroU64>) -> Throttle {
        Throttle {
            rate,
            free: Mutex::new(Instant::now()),
        }
    }

    /// How many documents may be asked for at once: those of a second.
    pub fn most(&self) -> u32 {
        self.rate.map_or(u32::MAX, |rate| {
            u32::try_from(rate.get()).unwrap_or(u32::MAX)
        })
    }

    /// Waits until what was just taken is paid for.
    pub async fn take(&self, documents: usize) {
        let Some(rate) = self.rate else { return };
        let price = Duration::from_secs_f64(documents as f64 / rate.get() as f64);
        let free = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            *free = (*free).max(Instant::now()) + price;
            *free
        };
        tokio::time::sleep_until(free).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn several_readers_together_keep_to_the_rate() {
        let throttle = Throttle::new(NonZeroU64::new(100));
        let start = Instant::now();
        let reader = async || {
            for _ in 0..10 {
                throttle.take(50).await;
            }
        };
        tokio::join!(reader(), reader(), reader());
        assert_eq!(start.elapsed(), Duration::from_secs(15));
        assert_eq!(throttle.most(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nobody_waits() {
        let throttle = Throttle::new(None);
        let start = Instant::now();
        throttle.take(usize::MAX).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
