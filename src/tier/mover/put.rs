//! An object on its way to a mover: piece after piece, one of which travels while the next is filled.

use super::hall::{Gone, Session, threads};
use super::pieces::PIECE;
use super::wire::{self, Answer, Ask, Fault};
use super::{Place, wait_for};
use crate::id::{AggregateId, InstanceId};
use crate::tier::{Put, Receipt, TierError, Unwanted};
use bytes::Bytes;
use cairn_mover::{Crc32c, Crc32cHasher};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// How often it is asked whether somebody still wants an object that is being finished.
const LOOK: Duration = Duration::from_millis(500);
/// How long a mover is waited for that went away while it finished an object.
const BACK: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct MoverPut {
    place: Arc<Place>,
    session: Arc<Session>,
    put: u64,
    object: AggregateId,
    buffer: Vec<u8>,
    travels: Option<JoinHandle<Result<Result<(), Fault>, Gone>>>,
    sum: Crc32cHasher,
    hasten: bool,
    unwanted: Option<Unwanted>,
    /// It failed, or is finished: nothing follows.
    closed: bool,
}

/// A number that no other put has, also not of the process before this one: a mover may remember those.
fn number() -> u64 {
    static FIRST: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let first = FIRST.get_or_init(|| {
        let random = InstanceId::random().0;
        u64::from(u32::from_le_bytes([
            random[0], random[1], random[2], random[3],
        ])) << 32
    });
    first + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Starts one.
pub(super) async fn begin(
    place: Arc<Place>,
    object: AggregateId,
    hint: u64,
) -> Result<MoverPut, TierError> {
    const STEP: &str = "starting";
    let session = place.session(STEP).await?;
    let put = number();
    let ask = Ask::Begin {
        put,
        object: object.to_string(),
        hint,
    };
    match session.ask(ask).await {
        Ok(Ok(_)) => {}
        Ok(Err(fault)) => return Err(fault.into_error(&place.label, Some(object))),
        Err(Gone) => return Err(place.gone(STEP)),
    }
    Ok(MoverPut {
        place,
        session,
        put,
        object,
        buffer: Vec::new(),
        travels: None,
        sum: Crc32cHasher::default(),
        hasten: false,
        unwanted: None,
        closed: false,
    })
}

impl MoverPut {
    /// Waits for the piece that travels.
    fn arrived(&mut self, step: &'static str) -> Result<(), TierError> {
        let Some(travels) = self.travels.take() else {
            return Ok(());
        };
        let place = &self.place;
        match wait_for(travels) {
            Some(Ok(Ok(Ok(())))) => Ok(()),
            Some(Ok(Ok(Err(fault)))) => Err(fault.into_error(&place.label, Some(self.object))),
            Some(Ok(Err(Gone))) => Err(place.gone(step)),
            Some(Err(_)) | None => Err(place.away(step, "its transfer ended without a result")),
        }
    }

    /// Sends what is in the buffer on its way.
    fn depart(&mut self, step: &'static str) -> Result<(), TierError> {
        self.arrived(step)?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::take(&mut self.buffer));
        let (session, put) = (Arc::clone(&self.session), self.put);
        let carrying = self.place.options.carrying();
        let work = async move {
            session
                .give(bytes, carrying, |iod| Ask::Append { put, iod })
                .await
        };
        let threads = threads().ok_or_else(|| self.place.away(step, "no threads"))?;
        self.travels = Some(threads.spawn(work));
        Ok(())
    }

    fn fail(&mut self, error: TierError) -> TierError {
        self.give_up();
        error
    }

    fn give_up(&mut self) {
        if !self.closed {
            self.closed = true;
            if let Some(travels) = self.travels.take() {
                travels.abort();
            }
            self.session.tell(Ask::Abandon { put: self.put });
        }
    }
}

impl Write for MoverPut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const STEP: &str = "writing";
        if self.closed {
            return Err(self.place.away(STEP, "it failed before").into());
        }
        // A piece fits memory.
        let room = usize::try_from(PIECE).unwrap_or(usize::MAX) - self.buffer.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.buffer.extend_from_slice(taken);
        self.sum.update(taken);
        if taken.len() == room
            && let Err(error) = self.depart(STEP)
        {
            return Err(self.fail(error).into());
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for MoverPut {
    fn finish(mut self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError> {
        const STEP: &str = "finishing";
        if self.closed {
            return Err(self.place.away(STEP, "it failed before"));
        }
        let (len, own) = (self.sum.len(), self.sum.sum());
        if own != sum {
            let error = TierError::Corrupt {
                tier: self.place.label.clone(),
                object: self.object,
                expected: sum,
                found: own,
            };
            return Err(self.fail(error));
        }
        if let Err(error) = self.depart(STEP).and_then(|()| self.arrived(STEP)) {
            return Err(self.fail(error));
        }
        let finish = finish(
            Arc::clone(&self.place),
            Arc::clone(&self.session),
            Ending {
                put: self.put,
                object: self.object,
                len,
                sum,
                hasten: self.hasten,
                unwanted: self.unwanted.take(),
            },
        );
        // From here on the mover decides: it is not told to give up what it may be making durable.
        self.closed = true;
        let none = || self.place.away(STEP, "there are no threads for it");
        wait_for(finish).ok_or_else(none)?
    }

    fn hasten(&mut self) {
        self.hasten = true;
    }

    fn heed(&mut self, unwanted: Unwanted) {
        self.unwanted = Some(unwanted);
    }

    fn abandon(mut self: Box<Self>) {
        self.give_up();
    }
}

impl Drop for MoverPut {
    fn drop(&mut self) {
        self.give_up();
    }
}

struct Ending {
    put: u64,
    object: AggregateId,
    len: u64,
    sum: Crc32c,
    hasten: bool,
    unwanted: Option<Unwanted>,
}

async fn finish(
    place: Arc<Place>,
    session: Arc<Session>,
    ending: Ending,
) -> Result<Receipt, TierError> {
    let ask = Ask::Finish {
        put: ending.put,
        crc: ending.sum.0,
        hasten: ending.hasten,
    };
    let mut asked = std::pin::pin!(session.ask(ask));
    let mut told = false;
    let answered = loop {
        if let Ok(answered) = timeout(LOOK, &mut asked).await {
            break answered;
        }
        if !told && ending.unwanted.as_ref().is_some_and(|unwanted| unwanted()) {
            session.tell(Ask::Abandon { put: ending.put });
            told = true;
        }
    };
    match answered {
        Ok(Ok(answer)) => ending.judged(&place, &answer),
        Ok(Err(fault)) => Err(fault.into_error(&place.label, Some(ending.object))),
        Err(Gone) => look_again(&place, &ending).await,
    }
}

/// The mover went away while it finished an object: what became of it, the mover knows when it is back, if it is the same
/// process. Another one knows nothing: then it counts as not there. If it is there all the same nobody has it on record, as
/// if this process had died, and P8 finds it.
async fn look_again(place: &Place, ending: &Ending) -> Result<Receipt, TierError> {
    const STEP: &str = "finishing";
    let (begun, unwanted) = (Instant::now(), ending.unwanted.as_ref());
    loop {
        // It opens its place again before it says anything of it.
        if let Ok(session) = place.session(STEP).await {
            let object = ending.object.to_string();
            let mut asked = std::pin::pin!(session.ask(Ask::Outcome {
                put: ending.put,
                object,
            }));
            let answered = loop {
                match timeout(LOOK, &mut asked).await {
                    Ok(answered) => break answered,
                    Err(_) if unwanted.is_some_and(|unwanted| unwanted()) => {
                        return Err(place.gone(STEP));
                    }
                    Err(_) => {}
                }
            };
            match answered {
                Ok(Ok(answer)) => return ending.judged(place, &answer),
                Ok(Err(fault)) => return Err(fault.into_error(&place.label, Some(ending.object))),
                // Once more.
                Err(Gone) => {}
            }
        }
        if begun.elapsed() > BACK || unwanted.is_some_and(|unwanted| unwanted()) {
            return Err(place.gone(STEP));
        }
        sleep(LOOK).await;
    }
}

impl Ending {
    /// A receipt, if it is one for what was sent.
    fn judged(&self, place: &Place, answer: &Answer) -> Result<Receipt, TierError> {
        let receipt = wire::receipt(self.object, answer).ok_or_else(|| place.odd("finishing"))?;
        if (receipt.len, receipt.crc) != (self.len, self.sum) {
            return Err(TierError::Corrupt {
                tier: place.label.clone(),
                object: self.object,
                expected: self.sum,
                found: receipt.crc,
            });
        }
        Ok(receipt)
    }
}
