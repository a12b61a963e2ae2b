//! Whether a service works (ready) and whether it moves at all (live).
//!
//! *Ready* is the conjunction of named conditions that the service itself keeps true or false.
//! *Live* is a heartbeat from the main loop: a process that answers HTTP while its loop hangs is
//! dead, and only the loop can say that it is not.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// Both, as the admin listener wants them.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Whether the service works.
    pub readiness: Readiness,
    /// Whether it moves.
    pub liveness: Liveness,
}

type Conditions = BTreeMap<String, Result<(), String>>;

/// Named conditions; ready when there is one and all hold. Cheap to clone, all clones are one.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<Conditions>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Conditions::new())))
    }
}

impl Readiness {
    /// Announces a condition that does not hold yet, so that readiness waits for it.
    pub fn expect(&self, name: &str) {
        self.set(name, Err("starting".to_owned()));
    }

    /// Sets a condition; a change from or to ready is logged once.
    pub fn set(&self, name: &str, condition: Result<(), String>) {
        self.update(|conditions| {
            let old = conditions.insert(name.to_owned(), condition.clone());
            old.as_ref() != Some(&condition)
        });
    }

    /// Forgets a condition that no longer matters.
    pub fn forget(&self, name: &str) {
        self.update(|conditions| conditions.remove(name).is_some());
    }

    /// # Errors
    /// The reasons, each with its condition's name in front.
    pub fn check(&self) -> Result<(), String> {
        verdict(&self.0.borrow())
    }

    /// All conditions as they are now.
    pub fn conditions(&self) -> BTreeMap<String, Result<(), String>> {
        self.0.borrow().clone()
    }

    /// Waits until ready.
    pub async fn ready(&self) {
        let mut changes = self.0.subscribe();
        // It fails only when the sender is gone, and `self` holds it.
        changes
            .wait_for(|conditions| verdict(conditions).is_ok())
            .await
            .ok();
    }

    fn update(&self, change: impl FnOnce(&mut Conditions) -> bool) {
        let mut verdicts = None;
        self.0.send_if_modified(|conditions| {
            let before = verdict(conditions);
            let changed = change(conditions);
            verdicts = Some((before, verdict(conditions)));
            changed
        });
        match verdicts {
            Some((Err(_), Ok(()))) => tracing::info!("ready"),
            Some((Ok(()), Err(reason))) => tracing::warn!(reason, "not ready"),
            _ => {}
        }
    }
}

fn verdict(conditions: &Conditions) -> Result<(), String> {
    if conditions.is_empty() {
        return Err("starting".to_owned());
    }
    let failed = |(name, condition): (&String, &Result<(), String>)| {
        condition
            .as_ref()
            .err()
            .map(|reason| format!("{name}: {reason}"))
    };
    let reasons: Vec<String> = conditions.iter().filter_map(failed).collect();
    if reasons.is_empty() {
        Ok(())
    } else {
        Err(reasons.join("; "))
    }
}

/// The heartbeats of a process; live when none is overdue. Cheap to clone, all clones are one.
#[derive(Clone, Debug)]
pub struct Liveness {
    start: Instant,
    hearts: Arc<Mutex<Vec<Weak<Pulse>>>>,
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            hearts: Arc::default(),
        }
    }
}

#[derive(Debug)]
struct Pulse {
    name: String,
    max_age: Duration,
    /// Milliseconds after [`Liveness::start`].
    last: AtomicU64,
}

impl Liveness {
    /// A heart that has to beat at least once in `max_age`, as long as it is kept.
    pub fn heart(&self, name: &str, max_age: Duration) -> Heart {
        let last = AtomicU64::new(millis(self.start.elapsed()));
        let pulse = Arc::new(Pulse {
            name: name.to_owned(),
            max_age,
            last,
        });
        self.hearts().push(Arc::downgrade(&pulse));
        Heart {
            start: self.start,
            pulse,
        }
    }

    /// # Errors
    /// Which hearts are overdue, and for how long they have been silent.
    pub fn check(&self) -> Result<(), String> {
        let now = self.start.elapsed();
        let mut hearts = self.hearts();
        hearts.retain(|heart| heart.strong_count() > 0);
        let overdue = |pulse: Arc<Pulse>| {
            let last = Duration::from_millis(pulse.last.load(Ordering::Relaxed));
            let age = now.saturating_sub(last);
            (age > pulse.max_age).then(|| {
                let (name, limit) = (&pulse.name, pulse.max_age.as_secs_f64());
                format!(
                    "{name}: no sign of life for {:.1} s, limit {limit:.1} s",
                    age.as_secs_f64()
                )
            })
        };
        let reasons: Vec<String> = hearts
            .iter()
            .filter_map(Weak::upgrade)
            .filter_map(overdue)
            .collect();
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons.join("; "))
        }
    }

    fn hearts(&self) -> MutexGuard<'_, Vec<Weak<Pulse>>> {
        self.hearts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The main loop's side of [`Liveness`]; dropped when the loop ends in order.
#[derive(Debug)]
pub struct Heart {
    start: Instant,
    pulse: Arc<Pulse>,
}

impl Heart {
    /// Says that the loop moves; costs no more than reading the clock.
    pub fn beat(&self) {
        self.pulse
            .last
            .store(millis(self.start.elapsed()), Ordering::Relaxed);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_every_condition_holds() {
        let readiness = Readiness::default();
        assert_eq!(readiness.check(), Err("starting".to_owned()));
        readiness.expect("nats");
        readiness.set("source", Err("connection refused".to_owned()));
        let reasons = "nats: starting; source: connection refused";
        assert_eq!(readiness.check(), Err(reasons.to_owned()));
        readiness.set("nats", Ok(()));
        readiness.set("source", Ok(()));
        assert_eq!(readiness.check(), Ok(()));
        readiness.clone().set("nats", Err("gone".to_owned()));
        assert_eq!(readiness.check(), Err("nats: gone".to_owned()));
        readiness.forget("nats");
        assert_eq!(readiness.check(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_ready_ends_when_the_last_condition_holds() {
        let readiness = Readiness::default();
        readiness.expect("nats");
        let other = readiness.clone();
        let setter = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            other.set("nats", Ok(()));
        });
        let start = Instant::now();
        readiness.ready().await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        setter.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_heart_that_stops_is_missed_and_one_that_is_dropped_is_not() {
        let liveness = Liveness::default();
        assert_eq!(liveness.check(), Ok(()));
        let heart = liveness.heart("capture", Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(9)).await;
        heart.beat();
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(liveness.check(), Ok(()));
        tokio::time::advance(Duration::from_secs(2)).await;
        let reason = liveness.check().unwrap_err();
        assert_eq!(reason, "capture: no sign of life for 11.0 s, limit 10.0 s");
        heart.beat();
        assert_eq!(liveness.check(), Ok(()));
        tokio::time::advance(Duration::from_secs(60)).await;
        drop(heart);
        assert_eq!(liveness.check(), Ok(()));
    }
}
