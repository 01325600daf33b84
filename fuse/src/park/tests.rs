//! Replies that are lent, and callers who give up meanwhile.

use super::*;
use crate::AlwaysResident;
use crossbeam_channel::{Receiver, unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

struct One {
    park: Park,
    ticket: Ticket,
    told: Receiver<Errno>,
    given_up: Arc<AtomicU32>,
}

impl One {
    /// Lent for the first time.
    fn lent() -> (Self, Reply) {
        let park = Park::default();
        let (tell, told) = unbounded();
        let given_up = Arc::new(AtomicU32::new(0));
        let count = given_up.clone();
        let ticket = park.lent(70, |_| {
            Box::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
            })
        });
        let one = Self {
            park,
            ticket,
            told,
            given_up,
        };
        (one, Reply::Told(tell))
    }

    /// Its caller is interrupted.
    fn stop(&self) {
        let waiting = self.park.waiting().unwrap();
        let those: Vec<_> = waiting.iter().map(|one| (one.ticket, one.thread)).collect();
        assert_eq!(those, [(self.ticket, 70)], "under one name all the time");
        self.park.abandon(self.ticket, Errno::INTR, &AlwaysResident);
    }

    fn check(&self, told: &[Errno], given_up: u32) {
        assert_eq!(self.told.try_iter().collect::<Vec<_>>(), told);
        assert_eq!(self.given_up.load(Ordering::Relaxed), given_up);
    }
}

#[test]
fn who_gives_up_while_lent_is_answered_when_it_comes_back() {
    for rounds in 0..3 {
        let (one, mut reply) = One::lent();
        for _ in 0..rounds {
            one.park.give_back(one.ticket, reply);
            reply = one.park.lend(one.ticket).unwrap();
        }
        one.stop();
        one.check(&[], 0);
        one.park.give_back(one.ticket, reply);
        one.check(&[Errno::INTR], 1);
        assert!(one.park.lend(one.ticket).is_none());
    }
}

#[test]
fn who_gives_up_while_parked_is_answered_at_once() {
    let (one, reply) = One::lent();
    one.park.give_back(one.ticket, reply);
    one.stop();
    one.check(&[Errno::INTR], 1);
    assert!(one.park.lend(one.ticket).is_none());
}

#[test]
fn who_was_answered_does_not_give_up() {
    let (one, reply) = One::lent();
    one.stop();
    reply.error(Errno::NOLCK);
    one.park.settle(one.ticket);
    one.park.abandon(one.ticket, Errno::INTR, &AlwaysResident);
    one.check(&[Errno::NOLCK], 0);
    assert!(one.park.slots.lock().lent.is_empty());
}

#[test]
fn what_comes_back_to_a_closed_park_is_given_up() {
    let (one, reply) = One::lent();
    one.park.close(&AlwaysResident);
    one.park.give_back(one.ticket, reply);
    one.check(&[Errno::NOTCONN], 1);
}
