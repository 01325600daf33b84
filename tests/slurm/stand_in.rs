//! Scripts for Flux, against a stand-in of the commands that they call: there is no Flux here.

use crate::rig::{CAIRN, wait_for};
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Programs that note how they were called, and what they read.
struct StandIn {
    dir: tempfile::TempDir,
}

/// Of `cairn`: one call a line, its last input in `read`. It says and exits with what lies in a file by the name of what is
/// asked, `VERB.N` the N-th time or `VERB` each time: the code in the first line, what it says on stderr behind that.
const CAIRN_STAND_IN: &str = r#"#!/bin/sh
printf '%s|' "$@" >>%DIR%/called; echo >>%DIR%/called
cat >%DIR%/read
n=$(grep -c "^job|$2|" %DIR%/called)
for answer in %DIR%/"$2.$n" %DIR%/"$2"; do
  if [ -e "$answer" ]; then
    [ "$(head -n 1 "$answer")" != hangs ] || { echo $$ >%DIR%/hung; exec sleep 600; }
    sed 1d "$answer" >&2; exit "$(head -n 1 "$answer")"
  fi
done
"#;

/// Of `flux`: what is asked about job fAbc, and what is done to it.
const FLUX_STAND_IN: &str = r#"#!/bin/sh
case "$*" in
  'job info fAbc jobspec') cat %DIR%/spec ;;
  'job id --to=dec fAbc') echo 4711 ;;
  'batch --urgency=hold '*) echo fAbc; printf '%s|' "$@" >>%DIR%/called; echo >>%DIR%/called ;;
  'job raise --'* | 'job urgency fAbc default' | 'job wait-event fAbc clean')
    printf 'flux|' >>%DIR%/called; printf '%s|' "$@" >>%DIR%/called; echo >>%DIR%/called ;;
  *) echo "flux: $*" >&2; exit 1 ;;
esac
"#;

const IN: &str = "job|stage-in|flux-4711|--as|1000|--wait|--script|-|--directory|/home/a b|\n";
const OUT: &str = "job|stage-out|flux-4711|--as|1000|--wait|--script|-|--directory|/home/a b|\n";
const RELEASE: &str =
    "job|release|flux-4711|--as|1000|--wait|30s|--script|-|--directory|/home/a b|\n";

impl StandIn {
    /// `flux job info` prints a jobspec with this script.
    fn new(script: &str) -> Result<Self> {
        Self::with(&serde_json::json!({"mode": 33216, "data": script, "encoding": "utf-8"}))
    }

    fn with(script: &serde_json::Value) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let spec = serde_json::json!({"attributes": {"system": {
            "cwd": "/home/a b",
            "files": {"script": script},
        }}});
        fs::write(dir.path().join("spec"), spec.to_string())?;
        let at = dir.path().display().to_string();
        for (name, text) in [("flux", FLUX_STAND_IN), ("cairn", CAIRN_STAND_IN)] {
            fs::write(dir.path().join(name), text.replace("%DIR%", &at))?;
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { dir })
    }

    fn answers(&self, what: &str, code: &str, says: &str) -> Result<()> {
        Ok(fs::write(
            self.dir.path().join(what),
            format!("{code}\n{says}"),
        )?)
    }

    fn command(&self, name: &str) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("packaging/flux")
            .join(name);
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(script);
        command
            .env("PATH", format!("{}:{path}", self.dir.path().display()))
            .env("TMPDIR", self.dir.path())
            .env("FLUX_JOB_ID", "fAbc")
            .env("FLUX_JOB_USERID", "1000")
            .env("CAIRN_PAUSE", "0.1");
        command
    }

    fn run(&self, name: &str) -> Result<Output> {
        Ok(self.command(name).output()?)
    }

    fn called(&self) -> String {
        fs::read_to_string(self.dir.path().join("called")).unwrap_or_default()
    }
}

const SCRIPT: &str = "#!/bin/sh\n#CAIRN stage_in /x\n# flux: -N4\necho \u{e4}\n";

#[test]
fn a_prolog_of_flux_stages_and_its_epilog_ends_what_the_job_holds() -> Result<()> {
    let base64 = "IyEvYmluL3NoCiNDQUlSTiBzdGFnZV9pbiAveAojIGZsdXg6IC1ONAplY2hvIMOkCg==";
    for script in [
        serde_json::json!({"mode": 33216, "data": SCRIPT, "encoding": "utf-8"}),
        serde_json::json!({"data": base64, "encoding": "base64"}),
        serde_json::json!(SCRIPT),
    ] {
        let flux = StandIn::with(&script)?;
        let done = flux.run("prolog.sh")?;
        ensure!(done.status.success(), "{done:?}");
        ensure!(flux.called() == IN, "{}", flux.called());
        ensure!(fs::read_to_string(flux.dir.path().join("read"))? == SCRIPT);
        let done = flux.run("epilog.sh")?;
        ensure!(done.status.success(), "{done:?}");
        let all = format!("{IN}{OUT}{RELEASE}");
        ensure!(flux.called() == all, "{}", flux.called());
    }
    Ok(())
}

#[test]
fn what_a_prolog_of_flux_cannot_have_fails_it_and_the_job_shows_why() -> Result<()> {
    let flux = StandIn::new(SCRIPT)?;
    let says = "cairn: optional: /o: no such file (not-found)\ncairn: /x: no such file (not-found)\ncairn: /y: no permission\n";
    flux.answers("stage-in", "1", says)?;
    let failed = flux.run("prolog.sh")?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    ensure!(
        String::from_utf8_lossy(&failed.stderr) == says,
        "{failed:?}"
    );
    let note = "flux|job|raise|--severity=1|--type=cairn|--message=cairn: /x: no such file (not-found); /y: no permission|fAbc|\n";
    ensure!(flux.called() == format!("{IN}{note}"), "{}", flux.called());
    Ok(())
}

#[test]
fn a_prolog_of_flux_waits_for_an_instance_and_not_for_ever() -> Result<()> {
    let flux = StandIn::new(SCRIPT)?;
    let away = "cairn: /x lies on no Cairn mount\n";
    for n in 1..=3 {
        flux.answers(&format!("stage-in.{n}"), "3", away)?;
    }
    let done = flux.run("prolog.sh")?;
    ensure!(done.status.success(), "{done:?}");
    ensure!(flux.called() == IN.repeat(4), "{}", flux.called());
    let flux = StandIn::new(SCRIPT)?;
    flux.answers("stage-in", "3", away)?;
    let failed = flux
        .command("prolog.sh")
        .env("CAIRN_PATIENCE", "0")
        .output()?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    let called = flux.called();
    let note = "--message=cairn: /x lies on no Cairn mount|fAbc|\n";
    ensure!(called.starts_with(IN) && called.ends_with(note), "{called}");
    Ok(())
}

#[test]
fn a_prolog_of_flux_that_is_cancelled_ends_with_what_it_started() -> Result<()> {
    let flux = StandIn::new(SCRIPT)?;
    flux.answers("stage-in", "hangs", "")?;
    let mut prolog = flux.command("prolog.sh").spawn()?;
    let hung = flux.dir.path().join("hung");
    wait_for("the stand-in", || {
        Ok(fs::read_to_string(&hung).is_ok_and(|pid| pid.ends_with('\n')))
    })?;
    let pid = rustix::process::Pid::from_child(&prolog);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    ensure!(prolog.wait()?.code() == Some(143));
    let child = fs::read_to_string(&hung)?;
    let shown = Path::new("/proc").join(child.trim()).join("comm");
    wait_for("the end of what it started", || {
        Ok(!fs::read_to_string(&shown).is_ok_and(|name| name.trim() == "sleep"))
    })?;
    let mut names = fs::read_dir(flux.dir.path())?.flatten();
    let left = names.find(|entry| entry.file_name().to_string_lossy().starts_with("tmp."));
    ensure!(left.is_none(), "{left:?} is left");
    Ok(())
}

#[test]
fn an_epilog_of_flux_drops_pins_also_if_nothing_could_be_archived() -> Result<()> {
    let flux = StandIn::new(SCRIPT)?;
    flux.answers("stage-out", "6", "cairn: the tier is away\n")?;
    let done = flux.run("epilog.sh")?;
    ensure!(done.status.success(), "{done:?}");
    ensure!(
        String::from_utf8_lossy(&done.stderr).contains("the tier is away"),
        "{done:?}"
    );
    ensure!(
        flux.called() == format!("{OUT}{RELEASE}"),
        "{}",
        flux.called()
    );
    // That the pins could not be dropped is not passed over.
    flux.answers("release", "3", "cairn: no running instance\n")?;
    let failed = flux.run("epilog.sh")?;
    ensure!(failed.status.code() == Some(3), "{failed:?}");
    Ok(())
}

#[test]
fn a_job_of_flux_without_directives_is_left_alone() -> Result<()> {
    let flux = StandIn::new("#!/bin/sh\necho\n")?;
    for name in ["prolog.sh", "epilog.sh"] {
        let done = flux.run(name)?;
        ensure!(done.status.success(), "{done:?}");
        ensure!(flux.called().is_empty(), "{}", flux.called());
    }
    // What is no job of Flux's is no success.
    let mut unknown = flux.command("prolog.sh");
    let failed = unknown.env("FLUX_JOB_ID", "fXyz").output()?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    Ok(())
}

#[test]
fn a_held_job_of_flux_is_let_go_when_its_files_are_there() -> Result<()> {
    let own = rustix::process::getuid().as_raw().to_string();
    let by_itself = |line: &str| line.replace("|--as|1000", "");
    let batch = "batch|--urgency=hold|-N|64|run.sh|\n";
    let submits = |flux: &StandIn| {
        let mut command = flux.command("batch.sh");
        command
            .env_remove("FLUX_JOB_ID")
            .env("FLUX_JOB_USERID", &own);
        command.args(["-N", "64", "run.sh"]).output()
    };
    let flux = StandIn::new(SCRIPT)?;
    let done = submits(&flux)?;
    ensure!(done.status.success(), "{done:?}");
    ensure!(done.stdout.starts_with(b"fAbc\n"), "{done:?}");
    let goes = "flux|job|urgency|fAbc|default|\nflux|job|wait-event|fAbc|clean|\n";
    let all = [
        batch,
        &by_itself(IN),
        goes,
        &by_itself(OUT),
        &by_itself(RELEASE),
    ]
    .concat();
    ensure!(flux.called() == all, "{}", flux.called());
    // What it cannot have ends the job.
    let flux = StandIn::new(SCRIPT)?;
    flux.answers("stage-in", "5", "cairn: /x: no permission\n")?;
    let failed = submits(&flux)?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    let called = flux.called();
    ensure!(called.contains("--severity=0|--type=cancel|"), "{called}");
    ensure!(!called.contains("|urgency|fAbc|default|"), "{called}");
    ensure!(called.ends_with(&by_itself(RELEASE)), "{called}");
    Ok(())
}

#[test]
fn what_the_scripts_call_is_there() -> Result<()> {
    // The words that the stand-in took for granted, as the program itself reads them.
    for verb in ["stage-in", "stage-out", "release"] {
        let help = Command::new(CAIRN)
            .args(["job", verb, "--as", "1000", "--directory", "/", "--help"])
            .output()?;
        ensure!(help.status.success(), "{verb}: {help:?}");
    }
    Ok(())
}
