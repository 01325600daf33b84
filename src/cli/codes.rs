//! The exit codes that each command's help ends with. The whole table stands in `cairn --help`;
//! a command's own help names those that it can end with.

use clap::Command;

/// What a command can end with, and what that means for it.
fn of(command: &str) -> &'static str {
    match command {
        "archive" | "release" | "stage" | "verify" | "remove" | "pin" | "unpin" | "set"
        | "clear" => {
            "0 done or accepted, 1 some files failed, 2 wrong usage, 3 no running instance, \
             4 still running, 5 not permitted, 6 a tier is unavailable"
        }
        "wait" => {
            "0 done, 1 some files failed, 2 wrong usage, 3 no running instance, 4 still running, \
             5 not permitted, 6 a tier is unavailable"
        }
        "up" => {
            "0 stopped, 1 not started, or no clean stop, 2 wrong usage, 5 not permitted, \
             6 a tier is unavailable"
        }
        "down" => "0 stopped, 1 in use, 2 wrong usage, 3 no running instance, 5 not permitted",
        "upgrade" => {
            "0 replaced, 1 not replaced, 2 wrong usage, 3 no running instance, 5 not permitted"
        }
        "repair" => {
            "0 nothing is wrong or all was mended, 1 something is left, 2 wrong usage, \
             3 no running instance, 5 not permitted"
        }
        "rebuild" => {
            "0 done, 1 not complete or failed, 2 wrong usage, 5 not permitted, 6 a tier is unavailable"
        }
        "adopt" => "0 done, 1 refused or failed, 2 wrong usage, 5 not permitted",
        "state" | "ls" => {
            "0 done, 1 some files could not be shown, 2 wrong usage, 3 no running instance, \
             5 not permitted"
        }
        "why" | "requests" | "cancel" | "retry" => {
            "0 done, 1 not found or failed, 2 wrong usage, 3 no running instance, 5 not permitted"
        }
        "undelete" => {
            "0 done, 1 some files could not be had, 2 wrong usage, 3 no running instance, \
             4 still running, 5 not permitted, 6 a tier is unavailable"
        }
        "status" => {
            "0 done, 3 no running instance; with --check 0 ok, 1 warning, 2 critical, 3 unknown"
        }
        "dump" => "0 done, 1 failed, 2 wrong usage",
        "check" => "0 good, 1 mistakes were found, 2 wrong usage, 3 no running instance",
        "run" => {
            "0 done or accepted, 1 some files failed, 2 wrong usage, 3 no running instance, \
             4 still running, 5 not permitted, 6 a tier is unavailable"
        }
        "list" => "0 done, 2 wrong usage, 3 no running instance, 5 not permitted",
        "collect" => {
            "0 done or begun, 1 a tier was not gone through, 2 wrong usage, 3 no running instance, \
             5 not permitted"
        }
        "owner" => {
            "0 done, 1 refused, 2 wrong usage, 3 no running instance, 6 a tier is unavailable"
        }
        "test" => "0 all cases passed, 1 some failed, 2 wrong usage, 6 the place is unavailable",
        "restore" => {
            "0 all is as it was, 1 some names are not (they are listed), 2 wrong usage, \
             5 not permitted, 6 the tier is unavailable"
        }
        "put" | "get" => {
            "0 all is there, 1 some files failed, 2 wrong usage, 3 no server, 4 interrupted, 5 not permitted, \
             6 a tier is unavailable"
        }
        "serve" => "0 stopped, 1 not started, 2 wrong usage, 3 no running instance",
        "lease" => {
            "0 and others as the command ends; 1 no ports are free, or no such command, 2 wrong usage"
        }
        "sbatch" => {
            "0 submitted (with --cairn-wait: the job may run), 1 some files cannot be had, or failed, 2 wrong usage \
             or a mistake in a directive, 3 no running instance, 5 not permitted; others as sbatch ends"
        }
        "issue" | "revoke" => {
            "0 done, 1 failed, 2 wrong usage, 3 no running instance, 5 not permitted"
        }
        "demo" => "0 all came back as it was, 1 it failed",
        _ => "0 done, 1 failed, 2 wrong usage",
    }
}

/// The same for what is below `job`.
fn of_job(command: &str) -> &'static str {
    match command {
        "check" => {
            "0 good, 1 some files are not to be had or there is no room, 2 wrong usage or a mistake in a \
             directive, 3 no running instance"
        }
        "stage-in" | "stage-out" => {
            "0 done or accepted, 1 some files failed, 2 wrong usage or a mistake in a directive, \
             3 no running instance, 4 still running, 5 not permitted, 6 a tier is unavailable"
        }
        "submit" | "resume" => {
            "0 submitted or followed (with --wait: the job may run), 1 some files cannot be had, or failed, \
             2 wrong usage or a mistake in a directive, 3 no running instance or no slurmrestd, 5 not permitted"
        }
        "status" => {
            "0 ready, or nothing was asked for, 1 some files failed, 2 wrong usage, 3 no running \
             instance, 4 still staging, 5 not permitted, 6 a tier is unavailable"
        }
        _ => "0 done, 1 failed, 2 wrong usage, 3 no running instance, 5 not permitted",
    }
}

/// Adds them to the help of every command that does something.
pub(super) fn told_by(command: Command) -> Command {
    let in_job = command.get_name() == "job";
    let names: Vec<String> = command
        .get_subcommands()
        .map(|below| below.get_name().to_owned())
        .collect();
    let mut command = command;
    for name in names {
        command = command.mut_subcommand(name, |below| {
            if below.has_subcommands() {
                return told_by(below);
            }
            let example = below
                .get_after_help()
                .map(|text| format!("{text}\n\n"))
                .unwrap_or_default();
            let codes = match in_job {
                true => of_job(below.get_name()),
                false => of(below.get_name()),
            };
            below.after_help(format!("{example}Exit codes: {codes}"))
        });
    }
    command
}
