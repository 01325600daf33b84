//! The commands as users see them: the program as a process against a fake engine behind a real
//! server. Output and help are frozen as snapshots.

mod doors;
mod fake;
mod help;
mod output;
mod requests;
mod rig;
