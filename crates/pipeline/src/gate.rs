//! How many bulks may be under way, found by how the target takes them.
//!
//! - It is busy (items refused for now, answers much slower than usual): half as many, and then one
//!   more after each few rounds that went well.
//! - It does not answer: none. After a pause one bulk goes as a probe; when it is answered, the
//!   others follow, half as many as before.
//!
//! [`Control`] decides and is pure; [`Gate`] is where lanes wait.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use runtime::backoff::Backoff;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// How many good answers for each bulk under way are waited for before there is one more.
const CALM_ROUNDS: usize = 4;
/// An answer is slow when it takes this many times the usual.
const SLOW_FACTOR: u32 = 4;
/// What is faster than this is never slow.
const NEVER_SLOW: Duration = Duration::from_secs(1);

/// What became of a bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was answered after this time, and nothing has to go again.
    Calm(Duration),
    /// Something in it was refused for now.
    Pressed,
    /// There was no answer, or only that there can be none.
    Down,
    /// It was never sent to its end.
    Unknown,
}

/// What a lane that has a bulk may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Go,
    /// Enough are under way.
    Full,
    /// The target does not answer; somebody may try then.
    DownUntil(Instant),
    /// Somebody is trying.
    Probing,
}

#[derive(Debug)]
struct Control {
    most: usize,
    limit: usize,
    under_way: usize,
    /// Answers since the limit was changed.
    answers: usize,
    /// How many were sent before the limit was changed: their answers say nothing about it.
    stale: usize,
    /// The time that answers take, the newest counting a thirty-second part.
    usual: Option<Duration>,
    state: State,
    backoff: Backoff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Down { until: Instant },
    Probing,
}

impl Control {
    fn new(most: usize) -> Control {
        Control {
            most: most.max(1),
            limit: most.max(1),
            under_way: 0,
            answers: 0,
            stale: 0,
            usual: None,
            state: State::Up,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(30)),
        }
    }

    fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Down { until } if until > now => return Admission::DownUntil(until),
            State::Down { .. } => self.state = State::Probing,
            State::Probing => return Admission::Probing,
            State::Up if self.under_way >= self.limit => return Admission::Full,
            State::Up => {}
        }
        self.under_way += 1;
        Admission::Go
    }

    /// Takes an answer. Returns how long nobody sends, where it is the one that says so.
    fn finish(&mut self, now: Instant, answer: Answer) -> Option<Duration> {
        self.under_way -= 1;
        match answer {
            Answer::Down => {
                // Those that were under way together fail together: that is one failure.
                if matches!(self.state, State::Down { .. }) {
                    return None;
                }
                let pause = self.backoff.next_delay();
                self.state = State::Down { until: now + pause };
                return Some(pause);
            }
            Answer::Unknown => {
                if self.state == State::Probing {
                    self.state = State::Down { until: now };
                }
                return None;
            }
            Answer::Calm(_) | Answer::Pressed => {}
        }
        if self.state != State::Up {
            self.state = State::Up;
            self.backoff.reset();
            self.set(self.limit / 2);
        }
        let pressed = match answer {
            Answer::Calm(took) => self.is_slow(took),
            _ => true,
        };
        if self.stale > 0 {
            self.stale -= 1;
            return None;
        }
        self.answers += 1;
        if pressed {
            self.set(self.limit / 2);
        } else if self.answers >= self.limit * CALM_ROUNDS {
            self.set(self.limit + 1);
        }
        None
    }

    fn is_slow(&mut self, took: Duration) -> bool {
        let usual = self.usual.unwrap_or(took);
        self.usual = Some((usual * 31 + took) / 32);
        took > NEVER_SLOW && took > usual * SLOW_FACTOR
    }

    fn set(&mut self, limit: usize) {
        self.limit = limit.clamp(1, self.most);
        self.answers = 0;
        self.stale = self.under_way;
    }
}

/// Where lanes wait until they may send.
#[derive(Debug)]
pub(crate) struct Gate {
    control: Mutex<Control>,
    changed: Notify,
}

/// Leave to send one bulk.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    gate: &'a Gate,
    sent: Instant,
    answered: bool,
}

impl Gate {
    /// For so many lanes.
    pub(crate) fn new(lanes: usize) -> Gate {
        Gate {
            control: Mutex::new(Control::new(lanes)),
            changed: Notify::new(),
        }
    }

    /// Waits for leave to send. `None` when `stop` is cancelled while the target does not answer.
    pub(crate) async fn enter(&self, stop: &CancellationToken) -> Option<Permit<'_>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let admission = self.lock().admit(Instant::now());
            match admission {
                Admission::Go => {
                    return Some(Permit {
                        gate: self,
                        sent: Instant::now(),
                        answered: false,
                    });
                }
                Admission::Full => changed.await,
                Admission::Probing => tokio::select! {
                    () = stop.cancelled() => return None,
                    () = changed => {}
                },
                Admission::DownUntil(until) => tokio::select! {
                    () = stop.cancelled() => return None,
                    () = changed => {}
                    () = tokio::time::sleep_until(until) => {}
                },
            }
        }
    }

    /// How many bulks may be under way.
    pub(crate) fn limit(&self) -> usize {
        self.lock().limit
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The bulk was answered, and whether all of it is done with.
    pub(crate) fn answered(mut self, is_done: bool) {
        let answer = match is_done {
            true => Answer::Calm(self.sent.elapsed()),
            false => Answer::Pressed,
        };
        self.finish(answer);
    }

    /// The target did not answer. Returns how long nobody sends now, to the first who says so.
    pub(crate) fn failed(mut self) -> Option<Duration> {
        self.finish(Answer::Down)
    }

    fn finish(&mut self, answer: Answer) -> Option<Duration> {
        self.answered = true;
        let pause = self.gate.lock().finish(Instant::now(), answer);
        self.gate.changed.notify_waiters();
        pause
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.finish(Answer::Unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUICK: Answer = Answer::Calm(Duration::from_millis(20));

    /// Sends as many bulks as may go, and answers them all alike.
    fn round(control: &mut Control, now: Instant, answer: Answer) -> usize {
        let mut sent = 0;
        while control.admit(now) == Admission::Go {
            sent += 1;
        }
        for _ in 0..sent {
            control.finish(now, answer);
        }
        sent
    }

    #[test]
    fn pressure_halves_and_calm_adds_one_after_some_rounds() {
        let (mut control, now) = (Control::new(16), Instant::now());
        let sent: Vec<usize> = (0..4)
            .map(|_| round(&mut control, now, Answer::Pressed))
            .collect();
        assert_eq!(sent, [16, 8, 4, 2]);
        assert_eq!(round(&mut control, now, Answer::Pressed), 1);
        let sent: Vec<usize> = (0..14).map(|_| round(&mut control, now, QUICK)).collect();
        assert_eq!(sent, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4]);
    }

    #[test]
    fn an_answer_much_slower_than_usual_is_pressure() {
        let (mut control, now) = (Control::new(8), Instant::now());
        for _ in 0..10 {
            assert_eq!(round(&mut control, now, QUICK), 8);
        }
        round(&mut control, now, Answer::Calm(Duration::from_secs(3)));
        assert_eq!(round(&mut control, now, QUICK), 4);
    }

    #[test]
    fn one_probe_goes_after_the_pause_and_its_answer_lets_the_others_go() {
        let (mut control, now) = (Control::new(8), Instant::now());
        for _ in 0..8 {
            assert_eq!(control.admit(now), Admission::Go);
        }
        let pause = control.finish(now, Answer::Down).unwrap();
        for _ in 0..7 {
            assert_eq!(
                control.finish(now, Answer::Down),
                None,
                "one failure, not eight"
            );
        }
        let until = now + pause;
        assert_eq!(control.admit(now), Admission::DownUntil(until));
        assert_eq!(control.admit(until), Admission::Go);
        assert_eq!(control.admit(until), Admission::Probing);
        assert!(control.finish(until, Answer::Down).is_some(), "still down");
        let later = until + Duration::from_secs(60);
        assert_eq!(control.admit(later), Admission::Go);
        control.finish(later, QUICK);
        assert_eq!(round(&mut control, later, QUICK), 4);
    }

    proptest! {
        /// Whatever is answered in whatever order, somebody may always go sooner or later, and never
        /// more than there are lanes.
        #[test]
        fn the_gate_neither_jams_nor_overflows(
            steps in prop::collection::vec((0u8..5, 0u64..40_000), 1..200),
        ) {
            let (mut control, mut now) = (Control::new(4), Instant::now());
            let mut under_way = 0;
            for (step, millis) in steps {
                now += Duration::from_millis(millis);
                match step {
                    0 => under_way += usize::from(control.admit(now) == Admission::Go),
                    _ if under_way == 0 => {}
                    step => {
                        under_way -= 1;
                        let answer = [Answer::Down, Answer::Pressed, QUICK, Answer::Unknown];
                        control.finish(now, answer[usize::from(step) - 1]);
                    }
                }
                prop_assert!(under_way <= 4);
            }
            for _ in 0..under_way {
                control.finish(now, Answer::Unknown);
            }
            now += Duration::from_secs(60);
            prop_assert_eq!(control.admit(now), Admission::Go);
        }
    }
}
