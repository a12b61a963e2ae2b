//! One question to the cluster for all who wait for its answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

/// The newest answer about each thing, and when it was asked for.
#[derive(Debug)]
pub(crate) struct Shared<T>(Mutex<HashMap<String, Arc<Answer<T>>>>);

type Answer<T> = tokio::sync::Mutex<Option<(Instant, T)>>;

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared(Mutex::default())
    }
}

impl<T: Clone> Shared<T> {
    /// An answer that was asked for at `since` or later. Whoever comes while another asks waits for the answer, and asks
    /// only if the question was put before that moment: of any number at most two ask one after the other.
    ///
    /// # Errors
    /// When the question fails. That is nobody else's answer.
    pub(crate) async fn ask<E>(
        &self,
        about: &str,
        since: Instant,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let answer = {
            let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match answers.get(about) {
                Some(answer) => Arc::clone(answer),
                None => Arc::clone(answers.entry(about.to_owned()).or_default()),
            }
        };
        let mut answer = answer.lock().await;
        if let Some((asked, known)) = &*answer
            && *asked >= since
        {
            return Ok(known.clone());
        }
        let asked = Instant::now();
        let new = question.await?;
        *answer = Some((asked, new.clone()));
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_who_come_while_one_asks_ask_once_more_together() {
        let (shared, asked) = (Shared::default(), AtomicU32::new(0));
        let ask = async |after: u64| {
            tokio::time::sleep(Duration::from_millis(after)).await;
            let question = async {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok::<u32, Infallible>(number)
            };
            let Ok(answer) = shared.ask("a", Instant::now(), question).await;
            answer
        };
        let answers = join_all((0..50).map(ask)).await;
        // What the first asked is too old for those who came after it.
        assert_eq!(answers[0], 0);
        assert!(
            answers[1..].iter().all(|answer| *answer == 1),
            "{answers:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_answer_will_do_for_whoever_says_so_and_a_failure_for_nobody() {
        let shared = Shared::default();
        let failed: Result<u32, &str> = shared.ask("a", Instant::now(), async { Err("no") }).await;
        assert_eq!(failed, Err("no"));
        let asked = Instant::now();
        let first = shared.ask("a", asked, async { Ok::<_, &str>(1) }).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let again = shared.ask("a", asked, async { Ok::<_, &str>(2) }).await;
        let anew = shared
            .ask("a", Instant::now(), async { Ok::<_, &str>(3) })
            .await;
        let other = shared.ask("b", asked, async { Ok::<_, &str>(4) }).await;
        assert_eq!([first, again, anew, other], [Ok(1), Ok(1), Ok(3), Ok(4)]);
    }
}
