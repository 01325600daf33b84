//! What slurmrestd is told of a job: it reads no `#SBATCH` lines, so that those which can be said in its words are, and
//! the others are refused. Pure, but for the few variables of the caller's that a job needs.

use super::words::Given;
use crate::cli::CliError;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Options whose value is a text, and the property's name.
const TEXTS: [(&str, &str); 12] = [
    ("account", "account"),
    ("array", "array"),
    ("chdir", "current_working_directory"),
    ("comment", "comment"),
    ("constraint", "constraints"),
    ("dependency", "dependency"),
    ("error", "standard_error"),
    ("job-name", "name"),
    ("output", "standard_output"),
    ("partition", "partition"),
    ("qos", "qos"),
    ("reservation", "reservation"),
];
/// Those whose value is a number.
const NUMBERS: [(&str, &str); 3] = [
    ("cpus-per-task", "cpus_per_task"),
    ("ntasks", "tasks"),
    ("ntasks-per-node", "tasks_per_node"),
];
/// Those that say nothing about the job.
const IDLE: [&str; 4] = ["ignore-pbs", "parsable", "quiet", "verbose"];
/// Variables that a job gets if its description has none.
const VARIABLES: [&str; 6] = ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"];

/// The job's properties.
pub(super) fn of(
    given: &[Given],
    own: &Map<String, Value>,
    here: &Path,
) -> Result<Value, CliError> {
    let mut properties = Map::new();
    for one in given {
        let (name, value) = property(one).map_err(|why| {
            CliError::usage(why).with_hint(
                "slurmrestd reads no #SBATCH lines: take it out, and say it by --description FILE",
            )
        })?;
        properties.extend(name.map(|name| (name.to_owned(), value)));
    }
    properties.extend(own.clone());
    let place = properties.get("current_working_directory");
    let place = here.join(place.and_then(Value::as_str).unwrap_or_default());
    let place = place
        .to_str()
        .ok_or_else(|| CliError::usage("slurmrestd takes no directory that is not UTF-8"))?;
    properties.insert("current_working_directory".to_owned(), json!(place));
    properties
        .entry("environment")
        .or_insert_with(|| environment(|name| std::env::var(name).ok()));
    Ok(Value::Object(properties))
}

fn environment(variable: impl Fn(&str) -> Option<String>) -> Value {
    let there = VARIABLES
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), json!(variable(name)?))));
    let mut all: Map<String, Value> = there.collect();
    // It may not be empty.
    all.entry("PATH").or_insert(json!("/usr/bin:/bin"));
    Value::Object(all)
}

/// The property that an option becomes; no name: none is needed.
fn property(given: &Given) -> Result<(Option<&'static str>, Value), String> {
    let name = given.name.as_str();
    let text = given.value.as_deref().map(|value| value.to_string_lossy());
    let text = text.as_deref().unwrap_or_default();
    let named = |list: &[(&'static str, &'static str)]| {
        let found = list.iter().find(|(option, _)| *option == name);
        found.map(|(_, property)| *property)
    };
    if let Some(property) = named(&TEXTS) {
        return Ok((Some(property), json!(text)));
    }
    let unfit = || format!("#SBATCH --{name}={text} cannot be said to slurmrestd");
    if let Some(property) = named(&NUMBERS) {
        let number: u64 = text.parse().map_err(|_| unfit())?;
        return Ok((Some(property), json!(number)));
    }
    match name {
        "hold" => Ok((Some("hold"), json!(true))),
        "requeue" => Ok((Some("requeue"), json!(true))),
        "no-requeue" => Ok((Some("requeue"), json!(false))),
        "nodes" => {
            let (least, most) = text.split_once('-').unwrap_or((text, text));
            let number = |text: &str| text.parse::<u64>().map_err(|_| unfit());
            Ok((Some("nodes"), json!([number(least)?, number(most)?])))
        }
        "time" => {
            let minutes = minutes(text).ok_or_else(unfit)?;
            Ok((Some("time_limit"), json!(minutes)))
        }
        idle if IDLE.contains(&idle) => Ok((None, Value::Null)),
        _ if text.is_empty() => Err(format!("#SBATCH --{name} cannot be said to slurmrestd")),
        _ => Err(unfit()),
    }
}

/// Slurm's forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; a part of a minute is one.
fn minutes(text: &str) -> Option<u64> {
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(days.parse::<u64>().ok()?), rest),
        None => (None, text),
    };
    let parts: Vec<u64> = rest
        .split(':')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    let (hours, minutes, seconds) = match (days, parts.as_slice()) {
        (None, [minutes]) => (0, *minutes, 0),
        (None, [minutes, seconds]) => (0, *minutes, *seconds),
        (Some(_), [hours]) => (*hours, 0, 0),
        (Some(_), [hours, minutes]) => (*hours, *minutes, 0),
        (_, [hours, minutes, seconds]) => (*hours, *minutes, *seconds),
        _ => return None,
    };
    let hours = days.unwrap_or(0).checked_mul(24)?.checked_add(hours)?;
    let whole = hours.checked_mul(60)?.checked_add(minutes)?;
    whole.checked_add(seconds.div_ceil(60))
}

#[cfg(test)]
mod tests {
    use super::super::words::of_script;
    use super::*;

    fn made(script: &str, own: Value) -> Result<Value, CliError> {
        let given = of_script(script.as_bytes()).unwrap();
        let Value::Object(own) = own else {
            panic!("{own}")
        };
        of(&given, &own, Path::new("/here"))
    }

    #[test]
    fn options_of_the_script_become_properties() {
        let script = "#!/bin/sh\n#SBATCH -J a -N 2-4 -n 8 -t 1:30:00 -o out/%j\n#SBATCH -D sub --no-requeue -Q\n";
        let mut found = made(script, json!({})).unwrap();
        let environment = found.as_object_mut().unwrap().remove("environment");
        assert!(environment.unwrap()["PATH"].is_string());
        let wanted = json!({
            "name": "a", "nodes": [2, 4], "tasks": 8, "time_limit": 90, "standard_output": "out/%j",
            "current_working_directory": "/here/sub", "requeue": false,
        });
        assert_eq!(found, wanted);
    }

    #[test]
    fn what_the_caller_describes_counts_more() {
        let own =
            json!({"partition": "b", "current_working_directory": "/x", "environment": {"A": "1"}});
        let found = made("#SBATCH -p a\n", own.clone()).unwrap();
        assert_eq!(found, own);
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        for (line, said) in [
            ("--gres=gpu:1", "--gres=gpu:1"),
            ("--exclusive", "--exclusive cannot"),
            ("-N 2,4", "--nodes=2,4"),
            ("-t tomorrow", "--time=tomorrow"),
            ("-n x", "--ntasks=x"),
        ] {
            let error = made(&format!("#SBATCH {line}\n"), json!({})).unwrap_err();
            assert!(error.to_string().contains(said), "{line}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn the_token_is_no_variable_of_the_jobs() {
        let all = environment(|name| Some(name.to_lowercase()));
        assert!(all.get("SLURM_JWT").is_none(), "{all}");
        assert_eq!(environment(|_| None), json!({"PATH": "/usr/bin:/bin"}));
    }

    #[test]
    fn times_are_minutes() {
        for (text, wanted) in [
            ("90", 90),
            ("0:30", 1),
            ("1:30:00", 90),
            ("1-0", 1440),
            ("1-1:30", 1530),
            ("1-0:0:1", 1441),
        ] {
            assert_eq!(minutes(text), Some(wanted), "{text}");
        }
        for odd in ["", "x", "1:2:3:4", "-1", "UNLIMITED"] {
            assert_eq!(minutes(odd), None, "{odd}");
        }
    }
}
