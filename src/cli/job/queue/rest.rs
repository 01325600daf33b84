//! The queue by slurmrestd, as the user whom a token names.
//!
//! Invariants:
//! - The token comes from the environment or a file, and goes into the header alone: no argument, no log, no error.
//! - It is read anew for each question: a file that is renewed in time serves as long as the job does.

use super::{Stand, stand_of, together};
use crate::cli::{CliError, sys};
use crate::client::remote::Trust;
use crate::client::remote::web::{Method, Web};
use crate::error::Failure;
use clap::Args;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// The variable that Slurm's own commands take a token from.
pub(in crate::cli::job) const TOKEN: &str = "SLURM_JWT";
/// What is asked for if nothing is found out.
const USUAL: &str = "v0.0.38";
/// What is taken if the service offers it, best first.
const KNOWN: [&str; 5] = ["v0.0.38", "v0.0.37", "v0.0.36", "v0.0.39", "v0.0.40"];
/// Slurm's numbers: no such job; held, as was asked for.
const NO_JOB: i64 = 2017;
const HELD: i64 = 2042;
/// Slurm's numbers for a token that it does not take (or a controller that does not answer: slurmrestd cannot tell).
const NO_TOKEN: [i64; 3] = [5005, 5004, 1007];

/// Where slurmrestd is, and what is shown to it.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli::job) struct Door {
    /// slurmrestd, or the proxy before it: https://HOST[:PORT] (http:// on this host alone).
    #[arg(long, value_name = "URL")]
    pub(in crate::cli::job) rest: Option<String>,
    /// A file with the token (default: the variable SLURM_JWT).
    #[arg(long, value_name = "FILE", requires = "rest")]
    token_file: Option<PathBuf>,
    /// Its version of the API (default: what it offers, else v0.0.38).
    #[arg(long, value_name = "VERSION", requires = "rest")]
    rest_version: Option<String>,
    /// Its certificate has this SHA-256.
    #[arg(long, value_name = "HEX", requires = "rest")]
    fingerprint: Option<String>,
    /// Authorities that vouch for it (PEM); without this and --fingerprint the system's.
    #[arg(long, value_name = "FILE", requires = "rest")]
    ca: Option<PathBuf>,
}

/// See the module.
pub(in crate::cli::job) struct Rest {
    door: Door,
    web: Web,
    version: String,
    user: String,
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slurmrestd at {} as {}", self.web.place(), self.user)
    }
}

/// What slurmrestd answered.
struct Answer {
    status: u16,
    body: Value,
}

/// One error of an answer: Slurm's number, and words.
struct Said {
    number: i64,
    words: String,
}

impl Door {
    /// The way to it; with `look` it is asked first, so that a bad token is refused before anything is done.
    pub(in crate::cli::job) fn open(&self, look: bool) -> Result<Rest, CliError> {
        let url = self.rest.as_deref().ok_or_else(|| {
            CliError::usage("it is not said where slurmrestd is")
                .with_hint("cairn job submit --rest https://slurm.example.org run.sh")
        })?;
        let trust = match (&self.fingerprint, &self.ca) {
            (Some(text), _) => Trust::Fingerprint(text.clone()),
            (None, Some(file)) => Trust::Authorities(file.clone()),
            (None, None) => Trust::System,
        };
        let uid = rustix::process::geteuid().as_raw();
        let user = sys::user_name(uid).ok_or_else(|| {
            let why = format!("user {uid} has no account on this host");
            CliError::new(Failure::NotPermitted, why)
        })?;
        if let Some(version) = &self.rest_version
            && !is_version(version)
        {
            let why = format!("{version:?} is no version of slurmrestd's");
            return Err(CliError::usage(why).with_hint("write it as v0.0.38"));
        }
        let mut rest = Rest {
            door: self.clone(),
            web: Web::new(url, &trust)?,
            version: self.rest_version.clone().unwrap_or(USUAL.to_owned()),
            user,
        };
        if look {
            if self.rest_version.is_none() {
                rest.version = rest.offered()?;
            }
            let answer = rest.call(Method::GET, "ping", None)?;
            rest.good("ping", &answer)?;
        }
        Ok(rest)
    }
}

fn is_version(text: &str) -> bool {
    let rest = text.strip_prefix("v0.0.");
    rest.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

impl Rest {
    fn token(&self) -> Result<String, CliError> {
        let text = match &self.door.token_file {
            Some(file) => std::fs::read_to_string(file).map_err(|e| {
                CliError::system(format!("read the token in {}", file.display()), &e)
            })?,
            None => std::env::var(TOKEN).map_err(|_| {
                CliError::usage("no token")
                    .with_hint("scontrol token prints one: set SLURM_JWT, or --token-file FILE")
            })?,
        };
        let text = text.trim().trim_start_matches("SLURM_JWT=");
        let token = text.lines().next().unwrap_or_default().trim();
        let plain = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        if !plain {
            return Err(CliError::usage("the token is empty, or no line of text"));
        }
        Ok(token.to_owned())
    }

    /// A question below the version's prefix.
    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, CliError> {
        self.at(method, &format!("/slurm/{}/{path}", self.version), body)
    }

    fn at(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, CliError> {
        let token = self.token()?;
        let headers = [
            ("x-slurm-user-name", self.user.as_str()),
            ("x-slurm-user-token", &token),
        ];
        let body = body.map(|body| body.to_string().into_bytes());
        let (status, bytes) = self
            .web
            .call(method, path, &headers, body)
            .map_err(|error| match error.failure() {
                Failure::NoInstance => {
                    let why = format!("slurmrestd at {}: {error}", self.web.place());
                    CliError::new(Failure::NoInstance, why)
                }
                _ => error.into(),
            })?;
        Ok(Answer {
            status,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        })
    }

    /// The version that is best of those on offer. A proxy may hide what is offered.
    fn offered(&self) -> Result<String, CliError> {
        let answer = self.at(Method::GET, "/openapi/v3", None)?;
        let Some(paths) = answer.body["paths"].as_object() else {
            return Ok(USUAL.to_owned());
        };
        let begins = |version: &str| {
            let begin = format!("/slurm/{version}/");
            paths.keys().any(|path| path.starts_with(&begin))
        };
        let best = KNOWN.into_iter().find(|version| begins(version));
        best.map(str::to_owned).ok_or_else(|| {
            let why = format!("slurmrestd offers none of {}", KNOWN.join(", "));
            CliError::new(Failure::Newer, why).with_hint("--rest-version VERSION asks for another")
        })
    }

    /// That an answer says no error.
    fn good(&self, step: &str, answer: &Answer) -> Result<(), CliError> {
        let errors = errors(&answer.body);
        let good = (200..300).contains(&answer.status) && errors.is_empty();
        if good {
            return Ok(());
        }
        let place = self.web.place();
        let words: Vec<String> = errors.iter().map(|error| error.words.clone()).collect();
        let said = match words.is_empty() {
            true => format!("HTTP status {}", answer.status),
            false => words.join("; "),
        };
        let refused = matches!(answer.status, 401 | 403)
            || errors.iter().any(|e| NO_TOKEN.contains(&e.number))
            || step == "ping";
        if refused {
            let why = format!(
                "slurmrestd at {place} does not take the token for user {}: {said}",
                self.user
            );
            let hint =
                "scontrol token prints a new one; slurmrestd says the same while slurmctld is down";
            return Err(CliError::new(Failure::NotPermitted, why).with_hint(hint));
        }
        if errors.iter().any(|error| error.number == NO_JOB) {
            return Err(CliError::new(
                Failure::NotFound,
                format!("{step}: slurmrestd at {place}: no such job"),
            ));
        }
        let why = format!("{step}: slurmrestd at {place}: {said}");
        Err(CliError::new(Failure::Internal, why))
    }

    /// Submits a job that is held; its number.
    pub(in crate::cli::job) fn submit(
        &self,
        script: &str,
        mut description: Value,
    ) -> Result<String, CliError> {
        description["hold"] = Value::Bool(true);
        if self.lists_environment()
            && let Some(variables) = description["environment"].as_object()
        {
            let list = variables
                .iter()
                .map(|(name, value)| json!(format!("{name}={}", value.as_str().unwrap_or(""))));
            description["environment"] = list.collect();
        }
        let body = json!({"script": script, "job": description});
        let answer = self.call(Method::POST, "job/submit", Some(&body))?;
        // That it is held stands among the errors.
        match answer.body["job_id"].as_u64() {
            Some(job) if job > 0 && (200..300).contains(&answer.status) => Ok(job.to_string()),
            _ => {
                self.good("submit", &answer)?;
                let why = format!("slurmrestd at {} names no job", self.web.place());
                Err(CliError::new(Failure::Internal, why))
            }
        }
    }

    /// Versions from 39 on take variables as a list.
    fn lists_environment(&self) -> bool {
        let number = self.version.rsplit('.').next();
        number
            .and_then(|n| n.parse::<u32>().ok())
            .is_some_and(|n| n >= 39)
    }

    fn jobs(&self, job: &str) -> Result<Vec<Value>, CliError> {
        let answer = self.call(Method::GET, &format!("job/{job}"), None)?;
        self.good(&format!("look at job {job}"), &answer)?;
        let jobs = answer.body["jobs"].as_array().cloned().unwrap_or_default();
        if jobs.is_empty() {
            let why = format!("slurmrestd shows nothing for job {job}");
            return Err(CliError::new(Failure::Internal, why));
        }
        Ok(jobs)
    }

    pub(super) fn stand(&self, job: &str) -> Result<Stand, CliError> {
        match self.jobs(job) {
            Ok(jobs) => Ok(together(jobs.iter().map(stand_in))),
            Err(CliError::Failed {
                failure: Failure::NotFound,
                ..
            }) => Ok(Stand::Unknown),
            Err(other) => Err(other),
        }
    }

    pub(super) fn commented(&self, job: &str) -> Result<String, CliError> {
        let jobs = self.jobs(job)?;
        let comment = jobs.first().and_then(|job| job["comment"].as_str());
        Ok(comment.unwrap_or_default().to_owned())
    }

    fn update(&self, job: &str, step: &str, change: &Value) -> Result<(), CliError> {
        let answer = self.call(Method::POST, &format!("job/{job}"), Some(change))?;
        self.good(&format!("{step} job {job}"), &answer)
    }

    pub(super) fn release(&self, job: &str) -> Result<(), CliError> {
        self.update(job, "release", &json!({"hold": false}))
    }

    pub(super) fn comment(&self, job: &str, text: &str) -> Result<(), CliError> {
        self.update(job, "comment", &json!({"comment": text}))
    }

    pub(super) fn cancel(&self, job: &str) -> Result<(), CliError> {
        let answer = self.call(Method::DELETE, &format!("job/{job}"), None)?;
        self.good(&format!("cancel job {job}"), &answer)
    }

    pub(super) fn arguments(&self) -> Vec<OsString> {
        let door = &self.door;
        let mut words: Vec<OsString> = vec!["--rest-version".into(), self.version.clone().into()];
        words.extend(
            door.rest
                .iter()
                .flat_map(|u| [OsString::from("--rest"), u.into()]),
        );
        let mut add = |name: &str, value: Option<OsString>| {
            words.extend(value.into_iter().flat_map(|value| [name.into(), value]));
        };
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or(path.clone());
        let file = |path: &Option<PathBuf>| path.as_ref().map(|p| absolute(p).into_os_string());
        add("--token-file", file(&door.token_file));
        add("--ca", file(&door.ca));
        add("--fingerprint", door.fingerprint.clone().map(Into::into));
        words
    }
}

/// The errors of an answer, whichever names a version has for them; not that a job is held.
fn errors(body: &Value) -> Vec<Said> {
    let all = body["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let one = |error: &Value| {
        let number = ["error_number", "error_code", "errno"]
            .iter()
            .find_map(|name| error[name].as_i64());
        let words: Vec<&str> = ["description", "error"]
            .iter()
            .filter_map(|name| error[name].as_str())
            .filter(|words| !words.is_empty())
            .collect();
        Said {
            number: number.unwrap_or(-1),
            words: words.join(": "),
        }
    };
    all.iter()
        .map(one)
        .filter(|said| said.number != HELD)
        .collect()
}

/// How a job of an answer stands: newer versions have lists of words, and numbers in objects.
fn stand_in(job: &Value) -> Stand {
    let state = &job["job_state"];
    let first = state.as_array().and_then(|states| states.first());
    let word = state.as_str().or_else(|| first.and_then(Value::as_str));
    let number = &job["priority"];
    let priority = number.as_u64().or_else(|| number["number"].as_u64());
    stand_of(word.unwrap_or_default(), priority.unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_stands_as_each_version_says() {
        let stand = |job: Value| stand_in(&job);
        let held = json!({"job_state": "PENDING", "priority": 0});
        assert_eq!(stand(held), Stand::Held);
        let held = json!({"job_state": ["PENDING"], "priority": {"set": true, "number": 0}});
        assert_eq!(stand(held), Stand::Held);
        let waits = json!({"job_state": "PENDING", "priority": 7});
        assert_eq!(stand(waits), Stand::Waits);
        assert_eq!(stand(json!({"job_state": "COMPLETED"})), Stand::Ended);
        assert_eq!(stand(json!({})), Stand::Runs);
    }

    #[test]
    fn that_a_job_is_held_is_no_error() {
        let body = json!({"errors": [{"error_code": 2042, "error": "Job is in held state"}]});
        assert!(errors(&body).is_empty());
        let body = json!({"errors": [{"error_number": 2017, "description": "a", "error": "b"}]});
        let found = errors(&body);
        assert_eq!((found[0].number, &*found[0].words), (NO_JOB, "a: b"));
    }

    #[test]
    fn versions_are_words_of_slurmrestds() {
        assert!(is_version("v0.0.38"));
        for odd in ["38", "v0.0.", "v0.0.3x", "v0.0.38/../x"] {
            assert!(!is_version(odd), "{odd}");
        }
    }
}
