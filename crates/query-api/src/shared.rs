//! One question to the cluster for all who wait for its answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

use crate::problem::Problem;

/// The newest answer about each thing, and when it was asked for.
#[derive(Debug)]
pub(crate) struct Shared<T>(Mutex<HashMap<String, Arc<Answer<T>>>>);

type Answer<T> = tokio::sync::Mutex<Option<(Instant, Result<T, Problem>)>>;

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
    /// When the question fails, for all whose answer it is: a cluster that does not answer is not asked once for each.
    pub(crate) async fn ask(
        &self,
        about: &str,
        since: Instant,
        question: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
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
            return known.clone();
        }
        let asked = Instant::now();
        let new = question.await;
        *answer = Some((asked, new.clone()));
        new
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use futures::future::join_all;

    use super::*;
    use crate::problem::Kind;

    /// What fifty are told who come one after the other while the first still waits. Questions are numbered, take 100
    /// milliseconds, and fail if `fails`.
    async fn fifty(fails: bool) -> Vec<Result<u32, String>> {
        let (shared, asked) = (Shared::default(), AtomicU32::new(0));
        let ask = async |after: u64| {
            tokio::time::sleep(Duration::from_millis(after)).await;
            let question = async {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
                match fails {
                    false => Ok(number),
                    true => Err(Problem::new(Kind::Unavailable, number.to_string())),
                }
            };
            let answer = shared.ask("a", Instant::now(), question).await;
            answer.map_err(|problem| problem.detail)
        };
        join_all((0..50).map(ask)).await
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_come_while_one_asks_ask_once_more_together() {
        let answers = fifty(false).await;
        // What the first asked is too old for those who came after it.
        assert_eq!(answers[0], Ok(0));
        assert!(
            answers[1..].iter().all(|answer| *answer == Ok(1)),
            "{answers:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_wait_for_a_cluster_that_does_not_answer_do_not_wait_one_after_the_other() {
        let began = Instant::now();
        let answers = fifty(true).await;
        assert_eq!(began.elapsed(), Duration::from_millis(200));
        assert_eq!(answers[0], Err("0".to_owned()));
        assert!(
            answers[1..]
                .iter()
                .all(|answer| *answer == Err("1".to_owned())),
            "{answers:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_answer_will_do_for_whoever_says_so_and_only_about_the_same() {
        let (shared, asked) = (Shared::default(), Instant::now());
        let mut answers = Vec::new();
        for (about, is_new, number) in [
            ("a", false, 1),
            ("a", false, 2),
            ("a", true, 3),
            ("b", false, 4),
        ] {
            let since = if is_new { Instant::now() } else { asked };
            let answer = shared.ask(about, since, async { Ok(number) }).await;
            answers.push(answer.unwrap_or(0));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(answers, [1, 1, 3, 4]);
    }
}
