//! `cairn tier test`: the suite that every tier passes, over a place that is to become one, in an area of its own there.

use crate::cli::output::Output;
use crate::cli::{CliError, outcome};
use crate::config::units::shown::counted;
use crate::error::Failure;
use crate::server::wire::{TierTest, TierTestCase};
use crate::tier::trial::{Outcome, Trial};
use crate::tier::{TierError, TierUrl};
use clap::Args;

/// Arguments of `tier test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// URL of a place that no tier uses: what is there is not touched.
    url: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Test {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        let url: TierUrl = self.url.parse().map_err(CliError::usage)?;
        let trial = Trial::at(&url).map_err(failed)?;
        let mut output = Output::new(self.json);
        eprintln!("cairn: trying {url} in {}", trial.area());
        let (mut cases, mut lost) = (Vec::new(), None);
        trial.run(&mut |case| {
            if !self.json
                && let Err(error) = output.line(line(&case))
            {
                lost.get_or_insert(error);
            }
            cases.push(TierTestCase {
                case: case.case.to_owned(),
                passed: case.result.is_ok(),
                why: case.result.err(),
            });
        });
        let cleared = trial.clear();
        if let Some(error) = lost {
            return Err(error);
        }
        let bad = cases.iter().filter(|case| !case.passed).count();
        let ran = counted(cases.len() as u64, "case");
        if self.json {
            output.object(TierTest {
                url: url.to_string(),
                area: trial.area(),
                cleared: cleared.is_ok(),
                cases,
            })?;
        } else {
            output.line(format!("{ran}, {bad} failed"))?;
        }
        output.finish()?;
        cleared.map_err(|why| {
            failed(why).with_hint(format!(
                "remove what is left of the trial: {}",
                trial.area()
            ))
        })?;
        Ok(if bad == 0 {
            outcome::OK
        } else {
            outcome::SOME_FAILED
        })
    }
}

fn line(case: &Outcome) -> String {
    match &case.result {
        Ok(()) => format!("ok      {}", case.case),
        Err(why) => format!("FAILED  {}: {why}", case.case),
    }
}

fn failed(why: TierError) -> CliError {
    let failure = match why {
        TierError::Refused { .. } => Failure::Conflict,
        _ => Failure::TierUnavailable,
    };
    CliError::new(failure, why)
}
