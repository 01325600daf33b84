//! The policy language and its planner: text in, plan out. Pure: no clock, no I/O.
//!
//! A [`Policy`] is read from text: settings, classes of files, and rules, each with a condition, a
//! trigger, an order and limits. A planner is told about files ([`FileFacts`]) and about the run
//! ([`RunInput`]) and answers with a [`Plan`]: which rule takes which files, why, and where it
//! stops. [`explain`] answers the same question for one file.
//!
//! ```text
//!   text --Policy::parse--> Policy --plan(RunInput, FileFacts...)--> Plan
//!                              |----explain(RunInput, FileFacts)---> Explanation
//!                              '----Rule::prefilter----------------> what to ask a catalog for
//! ```
//!
//! Promises: no text makes reading panic; the canonical text of a policy (its `Display`) reads as
//! the same policy; a plan is the same for the same files in any order; the first rule of a verb
//! whose condition holds decides about a file, whether or not it is due.
//!
//! ```
//! use cairn_policies::Policy;
//! let policy = Policy::parse("site.policy", "
//!     rule release by-watermark
//!         when size >= 64 KiB and not accessed for 30 d
//!         above 85 % down to 75 %
//! ")?;
//! assert_eq!(policy.rules[0].to_string(), "release/by-watermark");
//! let error = Policy::parse("site.policy", "rule relaese x manual").unwrap_err();
//! assert!(error.to_string().contains("did you mean `release`?"));
//! # Ok::<(), cairn_policies::ParseError>(())
//! ```

mod condition;
mod decide;
mod error;
mod explain;
mod facts;
mod lint;
mod parse;
mod pattern;
mod plan;
mod policy;
mod prefilter;
mod print;
mod quantity;
pub mod shipped;
mod words;

pub use condition::{Compare, Condition, Flag, TimeOf};
pub use decide::Held;
pub use error::{ParseError, Problem};
pub use explain::{Explanation, Refusal, VerbExplanation, Verdict, explain};
pub use facts::{FileFacts, FileState, Flags, NodeKey, RunInput, Select, StateSet, Usage};
pub use lint::Warning;
pub use pattern::Pattern;
pub use plan::{
    Chosen, MOST_FILES, PLAN_SCHEMA, Plan, PlanPath, RulePlan, Stop, Tally, UnknownRule, plan,
};
pub use policy::{Class, Limits, Order, Policy, Rule, Settings, Trigger, Verb};
pub use prefilter::Prefilter;
pub use quantity::{ByteCount, Moment, Percent, Span};
pub use words::Missing;

#[cfg(test)]
mod testing;
