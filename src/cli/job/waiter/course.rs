//! What is to be done next for a job that was submitted held, from what is heard of it. Pure: no clock, no I/O.
//!
//! Invariants:
//! - A job is let run only after all that it needs was found on disk.
//! - What a job holds is dropped only when the job has ended, or when it cannot be staged and stays held.
//! - That the queue does not answer is no news: nothing follows from it.

/// How a job stands in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli::job) enum Stand {
    /// Pending, and not let run.
    Held,
    /// Pending.
    Waits,
    /// It has begun, and not ended.
    Runs,
    /// It ended, or was cancelled.
    Ended,
    /// Slurm does not know it (any more).
    Unknown,
}

/// Which part of it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli::job) enum Part {
    /// All, from staging to the end.
    Whole,
    /// Staging, for a job that waits for the one that runs this.
    StageIn,
    /// What follows its end.
    StageOut,
}

/// What is wanted for the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli::job) struct Plan {
    pub(in crate::cli::job) part: Part,
    /// Its user wants it held; they release it.
    pub(in crate::cli::job) keep_held: bool,
    /// Something is archived at its end.
    pub(in crate::cli::job) stages_out: bool,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::job) enum Step {
    /// All is done.
    Good,
    /// A part of it was done now; asked again it may find more.
    More,
    /// Not done, and why.
    Failed(u8, String),
}

/// What is heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::job) enum Heard {
    /// The queue was asked; `None`: it did not answer.
    Looked(Option<Stand>),
    /// What was begun last has ended.
    Done(Step),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::job) enum Act {
    /// Begin to stage.
    StageIn,
    /// Begin to archive.
    StageOut,
    /// Begin to drop what is held.
    Drop,
    /// End what was begun; its end is heard.
    Stop,
    /// Let the job run.
    Release,
    /// Say so to those who watch.
    Say(String),
    /// Say so to the job's user, in the queue too.
    Tell(String),
    /// The work is over.
    Leave(u8),
}

/// Looks at the queue between two tries to drop what is held, at most.
const LONGEST_PAUSE: u32 = 30;
/// Tries to drop it.
const MOST_TRIES: u32 = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Looking,
    StagingIn,
    /// Stopped; what is held is dropped next.
    Stopping,
    /// All is here; it is to be let run.
    Releasing,
    Following,
    StagingOut,
    Dropping {
        tries: u32,
        /// Looks until the next try; `None`: it is under way.
        pause: Option<u32>,
    },
    Over,
}

/// See the module.
#[derive(Debug)]
pub(in crate::cli::job) struct Course {
    plan: Plan,
    phase: Phase,
    /// What this work exits with.
    code: u8,
}

impl Course {
    pub(in crate::cli::job) fn new(plan: Plan) -> Self {
        Self {
            plan,
            phase: Phase::Looking,
            code: 0,
        }
    }

    /// The job's end is far: the queue need not be asked often.
    pub(in crate::cli::job) fn is_calm(&self) -> bool {
        matches!(self.phase, Phase::Following)
    }

    /// What is to be done now, in order.
    pub(in crate::cli::job) fn hear(&mut self, heard: Heard) -> Vec<Act> {
        match heard {
            Heard::Looked(stand) => self.looked(stand),
            Heard::Done(step) => self.done(step),
        }
    }

    fn looked(&mut self, stand: Option<Stand>) -> Vec<Act> {
        if let Phase::Dropping { tries, pause } = self.phase {
            return self.drop_again(tries, pause);
        }
        let Some(stand) = stand else {
            return Vec::new();
        };
        let over = matches!(stand, Stand::Ended | Stand::Unknown);
        match self.phase {
            Phase::Looking => self.begin(stand, over),
            Phase::StagingIn if over => {
                self.phase = Phase::Stopping;
                self.code = 1;
                vec![Act::Say("the job has ended".to_owned()), Act::Stop]
            }
            Phase::Releasing if over => self.ended(),
            Phase::Releasing if stand == Stand::Held => vec![Act::Release],
            Phase::Releasing => {
                self.phase = Phase::Following;
                vec![Act::Say("released".to_owned())]
            }
            Phase::Following if over => self.ended(),
            _ => Vec::new(),
        }
    }

    fn begin(&mut self, stand: Stand, over: bool) -> Vec<Act> {
        match (self.plan.part, stand) {
            // Nothing ran, nothing is to be archived; what an earlier try holds goes.
            (Part::StageIn, _) if over => {
                self.code = 1;
                let mut acts = vec![Act::Say("the job has ended".to_owned())];
                acts.extend(self.drop_all());
                acts
            }
            (Part::Whole | Part::StageOut, _) if over => self.ended(),
            (Part::StageIn, _) | (Part::Whole, Stand::Held) => {
                self.phase = Phase::StagingIn;
                vec![Act::StageIn]
            }
            (Part::Whole | Part::StageOut, _) => {
                self.phase = Phase::Following;
                let said = "the job may run already: it is followed to its end";
                vec![Act::Say(said.to_owned())]
            }
        }
    }

    fn done(&mut self, step: Step) -> Vec<Act> {
        match self.phase {
            Phase::StagingIn => self.staged(step),
            Phase::Stopping => self.drop_all(),
            Phase::StagingOut => {
                let mut acts = Vec::new();
                if let Step::Failed(code, why) = step {
                    self.code = code;
                    acts.push(Act::Tell(format!("not archived: {why}")));
                }
                acts.extend(self.drop_all());
                acts
            }
            Phase::Dropping { tries, .. } => match step {
                Step::Good => {
                    self.phase = Phase::Over;
                    vec![Act::Leave(self.code)]
                }
                // What was on its way when the first order came is there now.
                Step::More => self.pause(tries, 1),
                Step::Failed(_, why) => {
                    let mut acts = vec![Act::Say(format!("what it holds is not dropped: {why}"))];
                    acts.extend(self.pause(tries, (tries + 1).min(LONGEST_PAUSE)));
                    acts
                }
            },
            Phase::Looking | Phase::Releasing | Phase::Following | Phase::Over => Vec::new(),
        }
    }

    fn staged(&mut self, step: Step) -> Vec<Act> {
        match step {
            Step::Failed(code, why) => {
                self.code = code;
                let held = match self.plan.part {
                    Part::StageIn => "",
                    Part::Whole | Part::StageOut => "; the job stays held",
                };
                let mut acts = vec![Act::Tell(format!("{why}{held}"))];
                acts.extend(self.drop_all());
                acts
            }
            Step::Good | Step::More if self.plan.part == Part::StageIn => {
                self.phase = Phase::Over;
                vec![Act::Tell("all is on disk".to_owned()), Act::Leave(0)]
            }
            Step::Good | Step::More if self.plan.keep_held => {
                self.phase = Phase::Following;
                vec![Act::Tell(
                    "all is on disk; the job is held as its user wished".to_owned(),
                )]
            }
            Step::Good | Step::More => {
                self.phase = Phase::Releasing;
                vec![Act::Release]
            }
        }
    }

    fn ended(&mut self) -> Vec<Act> {
        if self.plan.stages_out {
            self.phase = Phase::StagingOut;
            return vec![Act::StageOut];
        }
        self.drop_all()
    }

    fn drop_all(&mut self) -> Vec<Act> {
        self.phase = Phase::Dropping {
            tries: 0,
            pause: None,
        };
        vec![Act::Drop]
    }

    fn pause(&mut self, tries: u32, looks: u32) -> Vec<Act> {
        if tries >= MOST_TRIES {
            self.phase = Phase::Over;
            let said = "given up: its pins end by themselves, or by cairn job release";
            return vec![Act::Say(said.to_owned()), Act::Leave(self.code.max(1))];
        }
        self.phase = Phase::Dropping {
            tries,
            pause: Some(looks),
        };
        Vec::new()
    }

    fn drop_again(&mut self, tries: u32, pause: Option<u32>) -> Vec<Act> {
        let next = match pause {
            None => return Vec::new(),
            Some(0 | 1) => None,
            Some(more) => Some(more - 1),
        };
        let tries = tries + u32::from(next.is_none());
        self.phase = Phase::Dropping { tries, pause: next };
        match next {
            None => vec![Act::Drop],
            Some(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Plan = Plan {
        part: Part::Whole,
        keep_held: false,
        stages_out: false,
    };

    fn looked(course: &mut Course, stand: Stand) -> Vec<Act> {
        course.hear(Heard::Looked(Some(stand)))
    }

    fn done(course: &mut Course, step: Step) -> Vec<Act> {
        course.hear(Heard::Done(step))
    }

    fn failed() -> Step {
        Step::Failed(5, "/x: no permission".to_owned())
    }

    /// One that has all on disk and was let run.
    fn running(plan: Plan) -> Course {
        let mut course = Course::new(plan);
        assert_eq!(looked(&mut course, Stand::Held), [Act::StageIn]);
        assert_eq!(done(&mut course, Step::Good), [Act::Release]);
        let said = looked(&mut course, Stand::Waits);
        assert_eq!(said, [Act::Say("released".to_owned())]);
        course
    }

    #[test]
    fn a_job_is_staged_released_followed_and_dropped() {
        let mut course = running(WHOLE);
        for stand in [Stand::Waits, Stand::Runs, Stand::Held, Stand::Runs] {
            assert_eq!(looked(&mut course, stand), [], "{stand:?}");
        }
        assert_eq!(looked(&mut course, Stand::Ended), [Act::Drop]);
        assert_eq!(looked(&mut course, Stand::Ended), []);
        assert_eq!(done(&mut course, Step::Good), [Act::Leave(0)]);
    }

    #[test]
    fn what_it_wrote_is_archived_before_its_pins_go() {
        let plan = Plan {
            stages_out: true,
            ..WHOLE
        };
        let mut course = running(plan);
        assert_eq!(looked(&mut course, Stand::Unknown), [Act::StageOut]);
        assert_eq!(looked(&mut course, Stand::Unknown), []);
        assert_eq!(done(&mut course, Step::Good), [Act::Drop]);
        let mut course = running(plan);
        looked(&mut course, Stand::Ended);
        let acts = done(&mut course, failed());
        let said = Act::Tell("not archived: /x: no permission".to_owned());
        assert_eq!(acts, [said, Act::Drop]);
        assert_eq!(done(&mut course, Step::Good), [Act::Leave(5)]);
    }

    #[test]
    fn a_job_that_is_cancelled_while_it_stages_holds_nothing_afterwards() {
        for stand in [Stand::Ended, Stand::Unknown] {
            let mut course = Course::new(WHOLE);
            looked(&mut course, Stand::Held);
            let acts = looked(&mut course, stand);
            assert_eq!(acts.last(), Some(&Act::Stop));
            assert_eq!(looked(&mut course, stand), []);
            assert_eq!(done(&mut course, failed()), [Act::Drop]);
            // A request that was on its way came after the order.
            assert_eq!(done(&mut course, Step::More), []);
            assert_eq!(looked(&mut course, stand), [Act::Drop]);
            assert_eq!(done(&mut course, Step::Good), [Act::Leave(1)]);
        }
    }

    #[test]
    fn what_cannot_be_staged_is_told_and_the_job_is_never_released() {
        let mut course = Course::new(WHOLE);
        looked(&mut course, Stand::Held);
        let acts = done(&mut course, failed());
        let said = Act::Tell("/x: no permission; the job stays held".to_owned());
        assert_eq!(acts, [said, Act::Drop]);
        assert_eq!(looked(&mut course, Stand::Held), []);
        assert_eq!(done(&mut course, Step::Good), [Act::Leave(5)]);
    }

    #[test]
    fn a_queue_that_does_not_answer_changes_nothing() {
        let mut course = Course::new(WHOLE);
        assert_eq!(course.hear(Heard::Looked(None)), []);
        looked(&mut course, Stand::Held);
        assert_eq!(course.hear(Heard::Looked(None)), []);
        assert_eq!(done(&mut course, Step::Good), [Act::Release]);
        assert_eq!(course.hear(Heard::Looked(None)), []);
        // The order to release was lost: it is given again.
        assert_eq!(looked(&mut course, Stand::Held), [Act::Release]);
        looked(&mut course, Stand::Runs);
        assert_eq!(course.hear(Heard::Looked(None)), []);
        assert_eq!(looked(&mut course, Stand::Ended), [Act::Drop]);
    }

    #[test]
    fn a_waiter_that_comes_later_goes_on_where_the_job_is() {
        for stand in [Stand::Waits, Stand::Runs] {
            let mut course = Course::new(WHOLE);
            assert!(matches!(&looked(&mut course, stand)[..], [Act::Say(_)]));
            assert!(course.is_calm());
            assert_eq!(looked(&mut course, Stand::Ended), [Act::Drop]);
        }
        let mut course = Course::new(WHOLE);
        assert_eq!(looked(&mut course, Stand::Ended), [Act::Drop]);
    }

    #[test]
    fn a_job_that_its_user_holds_is_left_to_its_user() {
        let mut course = Course::new(Plan {
            keep_held: true,
            ..WHOLE
        });
        looked(&mut course, Stand::Held);
        assert!(matches!(&done(&mut course, Step::Good)[..], [Act::Tell(_)]));
        assert_eq!(looked(&mut course, Stand::Held), []);
        assert_eq!(looked(&mut course, Stand::Ended), [Act::Drop]);
    }

    #[test]
    fn a_job_of_its_own_that_stages_leaves_the_rest_to_others() {
        let plan = Plan {
            part: Part::StageIn,
            ..WHOLE
        };
        let mut course = Course::new(plan);
        assert_eq!(looked(&mut course, Stand::Waits), [Act::StageIn]);
        let acts = done(&mut course, Step::Good);
        assert_eq!(acts.last(), Some(&Act::Leave(0)));
        let mut course = Course::new(plan);
        let acts = looked(&mut course, Stand::Ended);
        assert_eq!(acts.last(), Some(&Act::Drop));
        assert_eq!(done(&mut course, Step::Good), [Act::Leave(1)]);
    }

    #[test]
    fn pins_are_dropped_again_and_again_and_at_last_given_up() {
        let mut course = Course::new(WHOLE);
        looked(&mut course, Stand::Ended);
        let (mut orders, mut looks) = (1, 0);
        let code = loop {
            let acts = done(&mut course, failed());
            if let Some(Act::Leave(code)) = acts.last() {
                break *code;
            }
            while course.hear(Heard::Looked(None)).is_empty() {
                looks += 1;
            }
            orders += 1;
        };
        assert_eq!(code, 1);
        assert_eq!(orders, MOST_TRIES + 1);
        assert!(looks > 20 * MOST_TRIES, "{looks}");
    }
}
