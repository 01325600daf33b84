//! Requests by example; the model has the rest.

use super::*;

fn ids(actions: &[Action]) -> Vec<ActionId> {
    actions.iter().map(|a| a.id).collect()
}

#[test]
fn one_key_one_request() {
    let rig = Rig::new();
    let first = rig.submit(
        request(Verb::Stage, 1, Some("k")),
        vec![action(NodeId(2), 5)],
        at(1),
    );
    let first = first.unwrap();
    let second = rig.submit(
        request(Verb::Stage, 1, Some("k")),
        vec![action(NodeId(3), 5)],
        at(2),
    );
    assert_eq!(
        second.unwrap(),
        Submitted {
            id: first.id,
            existing: true
        }
    );
    let other = rig
        .submit(request(Verb::Stage, 2, Some("k")), vec![], at(2))
        .unwrap();
    assert!(other.id != first.id && !other.existing);
    assert_eq!(
        rig.request(first.id).unwrap().unwrap().counts.queued.files,
        1
    );
    assert_eq!(
        rig.request(other.id).unwrap().unwrap().state,
        RequestState::Done,
        "nothing to do"
    );
}

#[test]
fn an_action_for_the_same_node_and_tier_is_added_once() {
    let rig = Rig::new();
    let new = NewRequest {
        sealed: false,
        ..request(Verb::Archive, 1, None)
    };
    let id = rig
        .submit(new, vec![action(NodeId(2), 5)], at(1))
        .unwrap()
        .id;
    let elsewhere = NewAction {
        tier: Some(TierId(9)),
        ..action(NodeId(2), 5)
    };
    let more = vec![action(NodeId(2), 5), elsewhere, action(NodeId(3), 5)];
    assert_eq!(
        rig.add_actions(id, more, at(1), Durability::Full).unwrap(),
        2
    );
    assert_eq!(rig.unsealed().unwrap().len(), 1);
    rig.seal(id, at(2)).unwrap();
    assert_eq!(rig.unsealed().unwrap(), []);
    let sealed = rig.add_actions(id, vec![], at(1), Durability::Full);
    assert!(matches!(sealed, Err(CatalogError::Refused { .. })));
}

/// Its expansion ended in a failure of the catalog and is made again: by then the first action was
/// done, and what it took away is missing.
#[test]
fn a_file_that_is_refused_at_a_second_expansion_keeps_its_action() {
    let rig = Rig::new();
    let new = NewRequest {
        sealed: false,
        ..request(Verb::Remove, 1, None)
    };
    let id = rig
        .submit(new, vec![action(NodeId(2), 5)], at(1))
        .unwrap()
        .id;
    let refused = |node| NewAction {
        tier: None,
        refused: Some(failure("no-good-copy")),
        ..action(NodeId(node), 0)
    };
    let more = vec![refused(2), refused(3)];
    let added = rig.add_actions(id, more, at(2), Durability::Full);
    assert_eq!(added.unwrap(), 1);
    let counts = rig.request(id).unwrap().unwrap().counts;
    assert_eq!((counts.queued.files, counts.failed.files), (1, 1));
}

/// Its expansion ended in a mistake of the program behind the action for the first tier: that for the
/// second is missing, and the request must not look done.
#[test]
fn a_subject_that_is_refused_as_a_whole_has_failed_beside_its_actions() {
    let rig = Rig::new();
    let new = NewRequest {
        sealed: false,
        ..request(Verb::Archive, 1, None)
    };
    let first = NewAction {
        tier: Some(TierId(1)),
        ..action(NodeId(2), 5)
    };
    let id = rig.submit(new, vec![first], at(1)).unwrap().id;
    let refused = NewAction {
        tier: None,
        refused: Some(failure("internal")),
        ..action(NodeId(2), 0)
    };
    let added = rig.refuse_subjects(id, vec![refused.clone()], at(2));
    assert_eq!(added.unwrap(), 1);
    let added = rig.refuse_subjects(id, vec![refused], at(3));
    assert_eq!(added.unwrap(), 0, "told once");
    rig.seal(id, at(3)).unwrap();
    let counts = rig.request(id).unwrap().unwrap().counts;
    assert_eq!((counts.queued.files, counts.failed.files), (1, 1));
}

#[test]
fn actions_are_taken_by_order_on_the_medium_and_shared_among_users() {
    let rig = Rig::new();
    let many = (2..102)
        .map(|n| action(NodeId(n), 1000 - n as u64))
        .collect();
    rig.submit(request(Verb::Stage, 1, None), many, at(1))
        .unwrap();
    rig.submit(
        request(Verb::Stage, 2, None),
        vec![action(NodeId(2), 1)],
        at(2),
    )
    .unwrap();
    let taken = rig.take_actions(Class::Stage, 10, at(3)).unwrap();
    assert_eq!(taken.len(), 10);
    assert_eq!(taken.iter().filter(|a| a.uid == 2).count(), 1);
    let offsets: Vec<_> = taken
        .iter()
        .filter(|a| a.uid == 1)
        .map(|a| a.place.unwrap())
        .collect();
    assert!(offsets.is_sorted() && offsets[0].offset == 1000 - 101);
    let again = rig.take_actions(Class::Stage, 1000, at(3)).unwrap();
    assert_eq!(again.len(), 91, "nothing is taken twice");
    assert_eq!(rig.take_actions(Class::Read, 10, at(3)).unwrap(), []);
}

#[test]
fn every_user_gets_a_turn_even_when_a_take_is_smaller_than_their_number() {
    let rig = Rig::new();
    for uid in 0..5 {
        let actions = (2..12).map(|n| action(NodeId(n), 1)).collect();
        rig.submit(request(Verb::Stage, uid, None), actions, at(1))
            .unwrap();
    }
    let take = |_| rig.take_actions(Class::Stage, 2, at(2)).unwrap();
    let mut users: Vec<u32> = (0..5).flat_map(take).map(|a| a.uid).collect();
    users.sort_unstable();
    assert_eq!(users, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
}

#[test]
fn cancel_is_effective_at_once_and_rows_settle_later() {
    let rig = Rig::new();
    let actions = (2..1002).map(|n| action(NodeId(n), 1)).collect();
    let id = rig
        .submit(request(Verb::Archive, 1, None), actions, at(1))
        .unwrap()
        .id;
    let taken = rig.take_actions(Class::Archive, 20, at(2)).unwrap();
    let running = rig.start_actions(ids(&taken[..5]), at(3)).unwrap().started;
    assert!(rig.cancel(id, at(4)).unwrap());
    assert!(!rig.cancel(id, at(4)).unwrap());
    let row = rig.request(id).unwrap().unwrap();
    assert_eq!((row.state, row.finished), (RequestState::Cancelled, None));
    assert_eq!(
        (row.counts.cancelled.files, row.counts.running.files),
        (995, 5)
    );
    let refused = rig.start_actions(ids(&taken[5..]), at(5)).unwrap();
    assert_eq!((refused.started.len(), refused.refused.len()), (0, 15));
    assert_eq!(rig.take_actions(Class::Archive, 20, at(5)).unwrap(), []);
    let shown = rig
        .actions(id, Some(ActionState::Cancelled), None, 5000)
        .unwrap();
    assert_eq!(shown.len(), 995);
    let ends = running.iter().map(|id| (*id, Finish::PutBack)).collect();
    rig.finish_actions(ends, at(6), Durability::Full).unwrap();
    let row = rig.request(id).unwrap().unwrap();
    assert_eq!(
        (row.finished, row.counts.cancelled.files),
        (Some(at(6)), 1000)
    );
    let mut settled = 0;
    loop {
        match rig.settle_cancelled(at(7), 300).unwrap() {
            0 => break,
            some => settled += some,
        }
    }
    assert_eq!(settled, 980);
    assert_eq!(
        rig.request(id).unwrap().unwrap(),
        row,
        "settling is invisible"
    );
}

#[test]
fn who_only_waited_has_tried_nothing() {
    let rig = Rig::new();
    let actions = (2..4).map(|n| action(NodeId(n), 10)).collect();
    let asked = rig.submit(request(Verb::Archive, 1, None), actions, at(1));
    let id = asked.unwrap().id;
    let taken = rig.take_actions(Class::Archive, 10, at(2)).unwrap();
    rig.start_actions(ids(&taken), at(3)).unwrap();
    let (not_before, why) = (at(50), failure("busy"));
    let wait = Finish::Wait {
        not_before,
        failure: why.clone(),
    };
    let retry = Finish::Retry {
        not_before,
        failure: why.clone(),
    };
    let ended = vec![(taken[0].id, wait), (taken[1].id, retry)];
    rig.finish_actions(ended, at(4), Durability::Full).unwrap();
    let row = rig.request(id).unwrap().unwrap();
    assert_eq!(row.counts.waiting.files, 2);
    assert_eq!(rig.take_actions(Class::Archive, 10, at(49)).unwrap(), []);
    let woken = rig.take_actions(Class::Archive, 10, at(50)).unwrap();
    let seen: Vec<_> = woken.iter().map(|a| (a.id, a.attempts)).collect();
    assert_eq!(seen, [(taken[0].id, 0), (taken[1].id, 1)]);
    assert!(woken.iter().all(|a| a.failure.as_ref() == Some(&why)));
}

#[test]
fn failures_are_listed_counted_and_retried() {
    let rig = Rig::new();
    let actions = (2..6).map(|n| action(NodeId(n), 10)).collect();
    let id = rig
        .submit(request(Verb::Stage, 1, None), actions, at(1))
        .unwrap()
        .id;
    let taken = rig.take_actions(Class::Stage, 10, at(2)).unwrap();
    rig.start_actions(ids(&taken), at(3)).unwrap();
    let end = |n: usize| match n {
        0 => Finish::Done,
        1 => Finish::Retry {
            not_before: at(50),
            failure: failure("busy"),
        },
        _ => Finish::Failed(failure("corrupt")),
    };
    let ended = (0..4).map(|n| (taken[n].id, end(n))).collect();
    rig.finish_actions(ended, at(4), Durability::Full).unwrap();
    let row = rig.request(id).unwrap().unwrap();
    assert_eq!(
        (row.state, row.counts.waiting.files, row.counts.failed.bytes),
        (RequestState::Running, 1, 20)
    );
    assert_eq!(rig.take_actions(Class::Stage, 10, at(49)).unwrap(), []);
    let woken = rig.take_actions(Class::Stage, 10, at(50)).unwrap();
    assert_eq!(
        (woken.len(), woken[0].attempts, woken[0].id),
        (1, 1, taken[1].id)
    );
    rig.start_actions(ids(&woken), at(51)).unwrap();
    rig.finish_actions(vec![(woken[0].id, Finish::Done)], at(52), Durability::Full)
        .unwrap();
    let row = rig.request(id).unwrap().unwrap();
    assert_eq!(
        (row.state, row.finished),
        (RequestState::Failed, Some(at(52)))
    );
    let failed = RequestFilter {
        failed: true,
        ..RequestFilter::default()
    };
    assert_eq!(rig.requests(failed, 10).unwrap().len(), 1);
    let causes = rig.status(1).unwrap().failures;
    assert_eq!(
        (causes.len(), causes[0].count, causes[0].code.as_str()),
        (1, 2, "corrupt")
    );
    assert_eq!(rig.last_failures(10).unwrap().len(), 2);
    let listed = rig
        .actions(id, Some(ActionState::Failed), None, 10)
        .unwrap();
    assert_eq!(listed[0].failure, Some(failure("corrupt")));
    assert_eq!(rig.retry_failed(id, at(60)).unwrap(), 2);
    let row = rig.request(id).unwrap().unwrap();
    assert_eq!(
        (row.state, row.finished, row.counts.queued.files),
        (RequestState::Running, None, 2)
    );
}

#[test]
fn p15_what_was_refused_is_not_revived_by_a_retry() {
    let rig = Rig::new();
    let refused = NewAction {
        refused: Some(failure("not-permitted")),
        ..action(NodeId(2), 5)
    };
    let id = rig
        .submit(request(Verb::Release, 1, None), vec![refused], at(1))
        .unwrap()
        .id;
    assert_eq!(rig.retry_failed(id, at(2)).unwrap(), 0);
    let row = rig.request(id).unwrap().unwrap();
    assert_eq!(row.counts.failed.files, 1);
    assert_eq!(row.counts.queued.files, 0);
}

#[test]
fn old_requests_are_forgotten_with_their_keys() {
    let rig = Rig::new();
    let id = rig
        .submit(request(Verb::Pin, 1, Some("k")), vec![], at(1))
        .unwrap()
        .id;
    let open = rig
        .submit(
            request(Verb::Pin, 1, None),
            vec![action(NodeId(2), 1)],
            at(1),
        )
        .unwrap();
    while rig.forget_requests(at(2), 100).unwrap() > 0 {}
    assert_eq!(rig.request(id).unwrap(), None);
    assert!(rig.request(open.id).unwrap().is_some());
    assert!(
        !rig.submit(request(Verb::Pin, 1, Some("k")), vec![], at(3))
            .unwrap()
            .existing
    );
}

#[test]
fn what_is_open_about_a_node() {
    let rig = Rig::new();
    let id = rig
        .submit(
            request(Verb::Stage, 1, None),
            vec![action(NodeId(2), 1)],
            at(1),
        )
        .unwrap()
        .id;
    assert_eq!(rig.open_actions_of(NodeId(2)).unwrap()[0].request, id);
    rig.cancel(id, at(2)).unwrap();
    assert_eq!(rig.open_actions_of(NodeId(2)).unwrap(), []);
}

#[test]
fn an_action_that_cannot_be_done_is_entered_as_failed() {
    let rig = Rig::new();
    let refused = NewAction {
        refused: Some(failure("not-permitted")),
        ..action(NodeId(3), 5)
    };
    let actions = vec![action(NodeId(2), 5), refused];
    let id = rig
        .submit(request(Verb::Stage, 1, None), actions, at(1))
        .unwrap()
        .id;
    let counts = rig.request(id).unwrap().unwrap().counts;
    assert_eq!((counts.queued.files, counts.failed.files), (1, 1));
    assert_eq!(rig.take_actions(Class::Stage, 10, at(2)).unwrap().len(), 1);
    let listed = rig
        .actions(id, Some(ActionState::Failed), None, 10)
        .unwrap();
    assert_eq!(listed[0].failure, Some(failure("not-permitted")));
}
