//! Random requests, takes, starts, ends, cancels, restarts against a model: counts add up, a
//! cancel is effective, a key names one request, nothing is taken twice or started when over.

use super::*;
use crate::catalog::tally::RowState;
use crate::id::RequestId;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Op {
    Submit {
        uid: u32,
        verb: Verb,
        files: usize,
        key: Option<u8>,
        sealed: bool,
    },
    Add {
        request: usize,
        files: usize,
    },
    Seal(usize),
    Take(Class, usize),
    Start(usize),
    Finish(usize, u8),
    Cancel(usize),
    Settle,
    Retry(usize),
    Recover,
}

fn op() -> impl Strategy<Value = Op> {
    let verb = prop_oneof![Just(Verb::Stage), Just(Verb::Archive), Just(Verb::Verify)];
    let class = prop_oneof![
        Just(Class::Stage),
        Just(Class::Archive),
        Just(Class::Verify)
    ];
    let submit = (
        0..3_u32,
        verb,
        0..5_usize,
        proptest::option::of(0..4_u8),
        any::<bool>(),
    );
    prop_oneof![
        4 => submit.prop_map(|(uid, verb, files, key, sealed)| {
            Op::Submit { uid, verb, files, key, sealed }
        }),
        1 => (any::<usize>(), 0..3_usize).prop_map(|(request, files)| Op::Add { request, files }),
        2 => any::<usize>().prop_map(Op::Seal),
        5 => (class, 1..6_usize).prop_map(|(class, limit)| Op::Take(class, limit)),
        6 => any::<usize>().prop_map(Op::Start),
        8 => (any::<usize>(), 0..7_u8).prop_map(|(action, how)| Op::Finish(action, how)),
        2 => any::<usize>().prop_map(Op::Cancel),
        1 => Just(Op::Settle),
        1 => any::<usize>().prop_map(Op::Retry),
        1 => Just(Op::Recover),
    ]
}

#[derive(Debug)]
struct ModelRequest {
    uid: u32,
    class: Class,
    sealed: bool,
    cancelled: bool,
    begun: bool,
    over: bool,
    actions: BTreeMap<ActionId, (RowState, u64, Option<Timestamp>)>,
}

impl ModelRequest {
    fn in_state(&self, state: RowState) -> impl Iterator<Item = u64> {
        self.actions
            .values()
            .filter(move |a| a.0 == state)
            .map(|a| a.1)
    }

    fn is_open(&self) -> bool {
        self.actions
            .values()
            .any(|a| (a.0 as u8) < RowState::Done as u8)
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (state, bytes, _) in self.actions.values() {
            let count = match rows::shown(*state, self.cancelled) {
                ActionState::Queued => &mut counts.queued,
                ActionState::Running => &mut counts.running,
                ActionState::Waiting => &mut counts.waiting,
                ActionState::Done => &mut counts.done,
                ActionState::Failed => &mut counts.failed,
                ActionState::Cancelled => &mut counts.cancelled,
            };
            count.files += 1;
            count.bytes += bytes;
        }
        counts
    }

    /// What follows whenever something of it changed.
    fn follow(&mut self) {
        let ran = [RowState::Running, RowState::Done, RowState::Failed];
        self.begun |= self.over || ran.iter().any(|s| self.in_state(*s).next().is_some());
        self.over = !self.cancelled && self.sealed && !self.is_open();
    }

    fn state(&self) -> RequestState {
        if self.cancelled {
            RequestState::Cancelled
        } else if self.over && self.in_state(RowState::Failed).next().is_some() {
            RequestState::Failed
        } else if self.over {
            RequestState::Done
        } else if self.begun {
            RequestState::Running
        } else {
            RequestState::Queued
        }
    }
}

#[derive(Default)]
struct Model {
    requests: BTreeMap<RequestId, ModelRequest>,
    keys: BTreeMap<(u32, u8), RequestId>,
    next_node: i64,
    now: i64,
}

impl Model {
    fn pick(&self, at: usize) -> Option<RequestId> {
        let ids: Vec<_> = self.requests.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[at % ids.len()])
    }

    fn pick_action(&self, at: usize) -> Option<(RequestId, ActionId)> {
        let all: Vec<_> = self
            .requests
            .iter()
            .flat_map(|(id, r)| r.actions.keys().map(|a| (*id, *a)))
            .collect();
        (!all.is_empty()).then(|| all[at % all.len()])
    }

    fn new_actions(&mut self, files: usize) -> Vec<NewAction> {
        (0..files)
            .map(|n| {
                self.next_node += 1;
                action(NodeId(1000 + self.next_node), 1 + n as u64)
            })
            .collect()
    }

    /// Takes the numbers that the catalog gave to new actions over.
    fn adopt(&mut self, rig: &Rig, id: RequestId) {
        let request = self.requests.get_mut(&id).unwrap();
        for action in rig.actions(id, None, None, 1000).unwrap() {
            let new = (RowState::Pending, action.bytes, None);
            request.actions.entry(action.id).or_insert(new);
        }
        request.follow();
    }

    fn apply(&mut self, rig: &Rig, op: &Op) {
        self.now += 1;
        let now = at(self.now);
        match op {
            Op::Submit { .. } => self.submit(rig, op, now),
            Op::Add { request, files } => self.add(rig, *request, *files, now),
            Op::Seal(request) => {
                let Some(id) = self.pick(*request) else {
                    return;
                };
                rig.seal(id, now).unwrap();
                let request = self.requests.get_mut(&id).unwrap();
                request.sealed = true;
                request.follow();
            }
            Op::Cancel(request) => {
                let Some(id) = self.pick(*request) else {
                    return;
                };
                let request = self.requests.get_mut(&id).unwrap();
                let expected = !request.cancelled && !request.over;
                assert_eq!(rig.cancel(id, now).unwrap(), expected);
                request.cancelled |= expected;
            }
            Op::Take(class, limit) => self.take(rig, *class, *limit, now),
            Op::Start(at) => self.start(rig, *at, now),
            Op::Finish(at, how) => self.finish(rig, *at, *how, now),
            Op::Settle => {
                rig.settle_cancelled(now, 3).unwrap();
            }
            Op::Retry(request) => self.retry(rig, *request, now),
            Op::Recover => self.recover(rig, now),
        }
    }

    fn submit(&mut self, rig: &Rig, op: &Op, now: Timestamp) {
        let Op::Submit {
            uid,
            verb,
            files,
            key,
            sealed,
        } = op
        else {
            return;
        };

        let name = key.map(|k| format!("key{k}"));
        let new = NewRequest {
            sealed: *sealed,
            ..request(*verb, *uid, name.as_deref())
        };
        let actions = self.new_actions(*files);
        let got = rig.submit(new, actions, now).unwrap();
        let known = key.and_then(|k| self.keys.get(&(*uid, k)).copied());
        assert_eq!(got.existing, known.is_some());
        if let Some(known) = known {
            assert_eq!(got.id, known);
            return;
        }
        if let Some(key) = key {
            self.keys.insert((*uid, *key), got.id);
        }
        let class = Class::of(*verb, Origin::User);
        let request = ModelRequest {
            uid: *uid,
            class,
            sealed: *sealed,
            cancelled: false,
            begun: false,
            over: false,
            actions: BTreeMap::new(),
        };
        assert!(self.requests.insert(got.id, request).is_none());
        self.adopt(rig, got.id);
    }

    fn add(&mut self, rig: &Rig, request: usize, files: usize, now: Timestamp) {
        let Some(id) = self.pick(request) else {
            return;
        };
        let actions = self.new_actions(files);
        let added = rig.add_actions(id, actions, now, Durability::Relaxed);
        let request = &self.requests[&id];
        if request.cancelled {
            assert_eq!(added.unwrap(), 0);
        } else if request.sealed {
            assert!(added.is_err());
        } else {
            assert_eq!(added.unwrap(), files as u64);
            self.adopt(rig, id);
        }
    }

    fn retry(&mut self, rig: &Rig, request: usize, now: Timestamp) {
        let Some(id) = self.pick(request) else {
            return;
        };
        let request = self.requests.get_mut(&id).unwrap();
        // Only what was begun: refusals stay.
        let failed = rig
            .actions(id, Some(ActionState::Failed), None, 10_000)
            .unwrap();
        let begun = |id: &ActionId| failed.iter().any(|a| a.id == *id && a.attempts > 0);
        let retried = rig.retry_failed(id, now);
        if request.cancelled {
            assert!(retried.is_err());
            return;
        }
        assert_eq!(
            retried.unwrap(),
            failed.iter().filter(|a| begun(&a.id)).count() as u64
        );
        for (_, action) in request
            .actions
            .iter_mut()
            .filter(|(id, a)| a.0 == RowState::Failed && begun(id))
        {
            action.0 = RowState::Pending;
        }
        request.follow();
    }

    fn recover(&mut self, rig: &Rig, now: Timestamp) {
        rig.recover_actions(now).unwrap();
        for request in self.requests.values_mut() {
            let to = if request.cancelled {
                RowState::Cancelled
            } else {
                RowState::Pending
            };
            for action in request.actions.values_mut() {
                if matches!(action.0, RowState::Taken | RowState::Running) {
                    action.0 = to;
                }
            }
            request.follow();
        }
    }

    fn take(&mut self, rig: &Rig, class: Class, limit: usize, now: Timestamp) {
        for request in self.requests.values_mut().filter(|r| !r.cancelled) {
            for action in request.actions.values_mut() {
                if action.0 == RowState::Waiting && action.2.is_some_and(|t| t <= now) {
                    action.0 = RowState::Pending;
                }
            }
        }
        let of_class = |r: &&ModelRequest| r.class == class && !r.cancelled;
        let pending = |r: &ModelRequest| r.in_state(RowState::Pending).count();
        let there: usize = self.requests.values().filter(of_class).map(pending).sum();
        let users: BTreeSet<u32> = self
            .requests
            .values()
            .filter(of_class)
            .filter(|r| pending(r) > 0)
            .map(|r| r.uid)
            .collect();
        let taken = rig.take_actions(class, limit, now).unwrap();
        assert_eq!(
            taken.len(),
            there.min(limit),
            "all that fits is taken, and no more"
        );
        let served: BTreeSet<u32> = taken.iter().map(|a| a.uid).collect();
        assert_eq!(
            served.len(),
            users.len().min(limit),
            "each user has a share"
        );
        for action in taken {
            let request = self.requests.get_mut(&action.request).unwrap();
            assert!(request.class == class && !request.cancelled);
            let row = request.actions.get_mut(&action.id).unwrap();
            assert_eq!(row.0, RowState::Pending, "{:?} taken twice", action.id);
            row.0 = RowState::Taken;
        }
    }

    fn start(&mut self, rig: &Rig, at: usize, now: Timestamp) {
        let Some((id, action)) = self.pick_action(at) else {
            return;
        };
        let started = rig.start_actions(vec![action], now).unwrap();
        let request = self.requests.get_mut(&id).unwrap();
        let row = request.actions.get_mut(&action).unwrap();
        let may = matches!(row.0, RowState::Pending | RowState::Taken) && !request.cancelled;
        assert_eq!(started.started.len(), usize::from(may));
        assert_eq!(started.refused.len(), usize::from(!may));
        if may {
            row.0 = RowState::Running;
            request.follow();
        }
    }

    fn finish(&mut self, rig: &Rig, at_action: usize, how: u8, now: Timestamp) {
        let Some((id, action)) = self.pick_action(at_action) else {
            return;
        };
        let not_before = at(self.now + 5);
        let (finish, mut to) = match how {
            0 | 1 => (Finish::Done, RowState::Done),
            2 => (Finish::Failed(failure("f")), RowState::Failed),
            3 => (
                Finish::Retry {
                    not_before,
                    failure: failure("r"),
                },
                RowState::Waiting,
            ),
            4 => (Finish::PutBack, RowState::Pending),
            5 => (
                Finish::Wait {
                    not_before,
                    failure: failure("w"),
                },
                RowState::Waiting,
            ),
            _ => (Finish::Cancelled, RowState::Cancelled),
        };
        rig.finish_actions(vec![(action, finish)], now, Durability::Full)
            .unwrap();
        let request = self.requests.get_mut(&id).unwrap();
        let row = request.actions.get_mut(&action).unwrap();
        if (row.0 as u8) >= RowState::Done as u8 {
            return;
        }
        let again = matches!(to, RowState::Waiting | RowState::Pending);
        if request.cancelled && (again || row.0 != RowState::Running) {
            to = RowState::Cancelled;
        }
        *row = (to, row.1, Some(not_before));
        request.follow();
    }

    fn compare(&self, rig: &Rig) {
        let mut backlog: BTreeMap<Class, [u64; 3]> = BTreeMap::new();
        for (id, request) in &self.requests {
            let row = rig.request(*id).unwrap().unwrap();
            let expected = request.counts();
            assert_eq!(
                (row.state, row.counts),
                (request.state(), expected),
                "request {id}"
            );
            let ended = match request.state() {
                RequestState::Cancelled => expected.running.files == 0,
                state => matches!(state, RequestState::Done | RequestState::Failed),
            };
            assert_eq!(row.finished.is_some(), ended, "request {id}");
            let listed = rig.actions(*id, None, None, 1000).unwrap();
            let shown: Vec<_> = listed.iter().map(|a| (a.id, a.state)).collect();
            let expected_rows: Vec<_> = request
                .actions
                .iter()
                .map(|(id, a)| (*id, rows::shown(a.0, request.cancelled)))
                .collect();
            assert_eq!(shown, expected_rows, "request {id}");
            let sum = backlog.entry(request.class).or_default();
            sum[0] += expected.queued.files;
            sum[1] += expected.waiting.files;
            sum[2] += expected.running.files;
        }
        for row in rig.status(1).unwrap().backlog {
            let found = [row.queued.files, row.waiting.files, row.running.files];
            assert_eq!(
                found,
                backlog.get(&row.class).copied().unwrap_or_default(),
                "{row:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn requests_follow_the_model(ops in proptest::collection::vec(op(), 1..60)) {
        let rig = Rig::new();
        let mut model = Model { now: 1, ..Model::default() };
        for op in &ops {
            model.apply(&rig, op);
            model.compare(&rig);
        }
    }
}
