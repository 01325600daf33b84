//! How much room the tiers have, asked so that one that hangs holds up nobody: each tier is asked by
//! one thread at a time, and who wants to know waits a moment at most.

use crate::id::TierId;
use crate::tier::{ErrorKind, Space, Tier};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a tier may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a tier said.
pub(super) type Said = Result<Space, (ErrorKind, String)>;

/// The questions that are under way.
#[derive(Default)]
pub(super) struct Questions {
    asked: Arc<Mutex<HashMap<TierId, Arc<Question>>>>,
}

#[derive(Default)]
struct Question {
    said: Mutex<Option<Said>>,
    answered: Condvar,
}

impl Questions {
    /// The room on a tier.
    pub(super) fn space(&self, id: TierId, tier: &Arc<dyn Tier>) -> Said {
        let tier = Arc::clone(tier);
        let ask = move || tier.space().map_err(|e| (e.kind(), e.to_string()));
        self.ask(id, ask, PATIENCE)
    }

    fn ask(
        &self,
        id: TierId,
        ask: impl FnOnce() -> Said + Send + 'static,
        patience: Duration,
    ) -> Said {
        let end = Instant::now() + patience;
        let question = {
            let mut asked = self.asked.lock();
            match asked.get(&id) {
                Some(there) => Arc::clone(there),
                None => {
                    let question = Arc::new(Question::default());
                    if let Err(error) = self.send(id, Arc::clone(&question), ask) {
                        return Err((ErrorKind::Unavailable, error.to_string()));
                    }
                    asked.insert(id, Arc::clone(&question));
                    question
                }
            }
        };
        let mut said = question.said.lock();
        while said.is_none() {
            if question.answered.wait_until(&mut said, end).timed_out() {
                break;
            }
        }
        let silent = || Err((ErrorKind::Unavailable, "it does not answer".to_owned()));
        said.clone().unwrap_or_else(silent)
    }

    /// Asks on a thread of its own. Called with the lock held, which that thread needs at its end.
    fn send(
        &self,
        id: TierId,
        told: Arc<Question>,
        ask: impl FnOnce() -> Said + Send + 'static,
    ) -> std::io::Result<()> {
        let asked = Arc::clone(&self.asked);
        let work = move || {
            let said = ask();
            // The next who wants to know asks anew.
            asked.lock().remove(&id);
            *told.said.lock() = Some(said);
            told.answered.notify_all();
        };
        let thread = std::thread::Builder::new().name("cairn-space".into());
        thread.spawn(work).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_tier_that_hangs_is_asked_once_and_holds_up_nobody() {
        let questions = Questions::default();
        let (release, held) = crossbeam_channel::bounded::<()>(0);
        let asked = Arc::new(AtomicUsize::new(0));
        let hang = || {
            let (held, asked) = (held.clone(), Arc::clone(&asked));
            move || {
                asked.fetch_add(1, Ordering::SeqCst);
                let _ = held.recv();
                Ok(Space::default())
            }
        };
        let short = Duration::from_millis(1);
        for _ in 0..5 {
            let said = questions.ask(TierId(1), hang(), short);
            assert!(matches!(said, Err((ErrorKind::Unavailable, _))));
        }
        let other = questions.ask(TierId(2), || Ok(Space::default()), Duration::from_secs(60));
        assert!(other.is_ok());
        drop(release);
        // The hanging one ends, and the next is asked.
        let end = Instant::now() + Duration::from_secs(60);
        while !questions.asked.lock().is_empty() && Instant::now() < end {
            std::thread::sleep(short);
        }
        assert!(asked.load(Ordering::SeqCst) <= 1, "one thread a tier");
        let said = questions.ask(TierId(1), || Ok(Space::default()), Duration::from_secs(60));
        assert!(said.is_ok());
    }
}
