//! The one writer: a thread that commits what others submit, in groups.
//!
//! A group is what has gathered while the last one was committed. Each submission is a savepoint
//! of its own: one that fails leaves the others alone. If any submission of a group asks for
//! [`Durability::Full`], the group is committed with `synchronous=FULL`.
//!
//! A submission that is alone in its group needs no savepoint: its transaction is its own. Those of
//! many rows ([`Size::Batch`]) are always alone, because under a savepoint SQLite keeps the former content
//! of every page that any statement changes until the savepoint ends: thousands of statements then
//! write tens of megabytes to a temporary file, which takes several times as long as the changes.

use super::damage::Damage;
use super::error::At;
use super::sieve::Sieve;
use super::{CatalogError, Durability, schema};
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Submissions that may wait; more make their callers wait.
const QUEUE: usize = 1024;
/// Submissions of one group.
const GROUP: usize = 128;
/// More things than these are changed in a transaction of their own.
const MANY: usize = 64;
/// A group that has run this long is committed with what it has.
const GROUP_TIME: Duration = Duration::from_millis(50);

/// Tells the submitter how it ended: its own result, or the group's error.
type Answer = Box<dyn FnOnce(Result<(), CatalogError>) + Send>;
/// Runs within the group's transaction (or hears why there is none); `false` asks for its savepoint
/// to be rolled back.
type Change = Box<dyn FnOnce(Result<&Connection, CatalogError>) -> (bool, Answer) + Send>;

/// How much a submission changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// A few rows: it shares a transaction with others.
    Small,
    /// Many rows: it has one of its own.
    Batch,
}

impl Size {
    /// Of a change of `count` things.
    pub(super) fn of(count: usize) -> Self {
        if count > MANY {
            Self::Batch
        } else {
            Self::Small
        }
    }
}

struct Submission {
    durability: Durability,
    size: Size,
    change: Change,
}

pub(super) struct Writer {
    queue: Mutex<Option<Sender<Submission>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    errors: Arc<AtomicU64>,
    damage: Arc<Damage>,
    /// Groups committed since the start.
    groups: Arc<AtomicU64>,
    path: PathBuf,
}

impl Writer {
    pub(super) fn start(
        path: &Path,
        damage: Arc<Damage>,
    ) -> Result<(Self, Arc<Sieve>), CatalogError> {
        let connection = schema::connect(path)?;
        let sieve = Sieve::on(&connection)?;
        let (queue, submissions) = bounded(QUEUE);
        let groups = Arc::new(AtomicU64::new(0));
        let thread = std::thread::Builder::new()
            .name("catalog-writer".to_owned())
            .spawn({
                let groups = Arc::clone(&groups);
                move || serve(&connection, &submissions, &groups)
            })
            .map_err(|e| CatalogError::io(path, "start the writer thread", e))?;
        let writer = Self {
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
            errors: Arc::default(),
            groups,
            damage,
            path: path.to_owned(),
        };
        Ok((writer, sieve))
    }

    /// Submits and waits for the commit.
    pub(super) fn run<T: Send + 'static>(
        &self,
        durability: Durability,
        size: Size,
        change: impl FnOnce(&Connection) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let (answer, answered) = bounded(1);
        self.submit(
            durability,
            size,
            Box::new(move |connection| {
                let result = connection.and_then(change);
                let good = result.is_ok();
                let tell: Answer = Box::new(move |group| {
                    // A submitter that is gone needs no answer.
                    let _ = answer.send(group.and(result));
                });
                (good, tell)
            }),
        )?;
        answered
            .recv()
            .map_err(|_| CatalogError::Closed { step: "commit" })?
    }

    /// Submits and returns.
    pub(super) fn post(
        &self,
        size: Size,
        change: impl FnOnce(&Connection) -> Result<(), CatalogError> + Send + 'static,
    ) -> Result<(), CatalogError> {
        let (errors, damage) = (Arc::clone(&self.errors), Arc::clone(&self.damage));
        self.submit(
            Durability::Relaxed,
            size,
            Box::new(move |connection| {
                let result = connection.and_then(change);
                let good = result.is_ok();
                let tell: Answer = Box::new(move |group| {
                    if let Err(error) = group.and(result) {
                        errors.fetch_add(1, Ordering::Relaxed);
                        damage.note(&error);
                        tracing::warn!(%error, "a change that nobody waited for is not in the catalog");
                    }
                });
                (good, tell)
            }),
        )
    }

    /// Folds the log into the database, for a clean stop. Readers that stand in the way make it
    /// partial, which is no error: the log is complete without it.
    pub(super) fn fold_log(&self) -> Result<(), CatalogError> {
        let path = &self.path;
        let connection = schema::connect(path)?;
        connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .at("fold the log", path.display())
    }

    /// Posted changes that failed since the start.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Transactions since the start: fewer than changes, because they are committed in groups.
    pub(super) fn groups(&self) -> u64 {
        self.groups.load(Ordering::Relaxed)
    }

    /// Changes that wait for the writer.
    pub(super) fn queued(&self) -> usize {
        self.queue.lock().as_ref().map_or(0, Sender::len)
    }

    #[cfg(test)]
    pub(super) fn close(&self) {
        *self.queue.lock() = None;
    }

    fn submit(
        &self,
        durability: Durability,
        size: Size,
        change: Change,
    ) -> Result<(), CatalogError> {
        let queue = self.queue.lock().clone();
        let closed = CatalogError::Closed { step: "submit" };
        queue
            .ok_or_else(|| closed.clone())?
            .send(Submission {
                durability,
                size,
                change,
            })
            .map_err(|_| closed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        *self.queue.lock() = None;
        if let Some(thread) = self.thread.lock().take() {
            // A writer that panicked has told so on stderr; its submitters saw `Closed`.
            let _ = thread.join();
        }
    }
}

fn serve(connection: &Connection, submissions: &Receiver<Submission>, groups: &AtomicU64) {
    let mut held: VecDeque<Submission> = VecDeque::new();
    let mut synchronous = Durability::Full;
    loop {
        if held.is_empty() {
            match submissions.recv() {
                Ok(first) => held.push_back(first),
                Err(_) => return,
            }
        }
        while held.len() < GROUP {
            match submissions.try_recv() {
                Ok(next) => held.push_back(next),
                Err(_) => break,
            }
        }
        let mut group = next_group(&mut held);
        let full = group.iter().any(|s| s.durability == Durability::Full);
        let wanted = if full {
            Durability::Full
        } else {
            Durability::Relaxed
        };
        let ready = set_synchronous(connection, &mut synchronous, wanted).and_then(|()| {
            connection
                .execute_batch("BEGIN IMMEDIATE")
                .at("begin", "group")
        });
        if let Err(error) = ready {
            for submission in group.drain(..) {
                let (_, answer) = (submission.change)(Err(error.clone()));
                answer(Ok(()));
            }
            continue;
        }
        if group.len() == 1 {
            group
                .into_iter()
                .for_each(|alone| commit_alone(connection, alone));
        } else {
            commit_group(connection, &mut group);
            // What the group's time did not suffice for comes first in the next one.
            while let Some(left) = group.pop_back() {
                held.push_front(left);
            }
        }
        groups.fetch_add(1, Ordering::Relaxed);
    }
}

/// The submissions at the front that go together, in their order.
fn next_group(held: &mut VecDeque<Submission>) -> VecDeque<Submission> {
    let small = held.iter().take_while(|s| s.size == Size::Small).count();
    held.drain(..small.max(1)).collect()
}

/// Runs the only submission of a transaction, and commits it if it went well.
fn commit_alone(connection: &Connection, submission: Submission) {
    let (good, answer) = (submission.change)(Ok(connection));
    let ended = match (good, connection.is_autocommit()) {
        (true, false) => connection.execute_batch("COMMIT").at("commit", "group"),
        (true, true) => Err(CatalogError::Refused {
            step: "commit",
            object: "change".to_owned(),
            why: "the transaction was rolled back",
        }),
        // What went wrong, the submission tells itself.
        (false, _) => Ok(()),
    };
    if !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    answer(ended);
}

fn set_synchronous(
    connection: &Connection,
    present: &mut Durability,
    wanted: Durability,
) -> Result<(), CatalogError> {
    if *present == wanted {
        return Ok(());
    }
    let sql = match wanted {
        Durability::Full => "PRAGMA synchronous = FULL",
        Durability::Relaxed => "PRAGMA synchronous = NORMAL",
    };
    connection
        .execute_batch(sql)
        .at("set synchronous", "writer")?;
    *present = wanted;
    Ok(())
}

/// Runs held submissions until none is left or the time is over, then commits and answers.
fn commit_group(connection: &Connection, held: &mut VecDeque<Submission>) {
    let begun = Instant::now();
    let mut answers: Vec<Answer> = Vec::new();
    let mut broken = None;
    while let Some(submission) = held.pop_front() {
        match run_one(connection, submission, &mut answers) {
            Ok(()) => {}
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
        if begun.elapsed() > GROUP_TIME {
            break;
        }
    }
    let committed = match broken {
        Some(error) => Err(error),
        None => connection.execute_batch("COMMIT").at("commit", "group"),
    };
    if committed.is_err() && !connection.is_autocommit() {
        // Nothing of the group counts; a transaction left open would swallow the next one.
        let _ = connection.execute_batch("ROLLBACK");
    }
    for answer in answers {
        answer(committed.clone());
    }
}

/// Runs one submission in a savepoint. An error means that the whole transaction is lost.
fn run_one(
    connection: &Connection,
    submission: Submission,
    answers: &mut Vec<Answer>,
) -> Result<(), CatalogError> {
    connection
        .execute_batch("SAVEPOINT one")
        .at("savepoint", "group")?;
    let (good, answer) = (submission.change)(Ok(connection));
    answers.push(answer);
    if connection.is_autocommit() {
        // SQLite itself rolled everything back (disk full, I/O error).
        return Err(CatalogError::Refused {
            step: "commit",
            object: "group".to_owned(),
            why: "the transaction was rolled back by an error of another change in it",
        });
    }
    let end = if good {
        "RELEASE one"
    } else {
        "ROLLBACK TO one; RELEASE one"
    };
    connection.execute_batch(end).at("end savepoint", "group")
}
