//! Scripts for Flux, against a stand-in of the commands that they call: there is no Flux here.

use crate::rig::CAIRN;
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Programs that note how they were called, and what they read.
struct StandIn {
    dir: tempfile::TempDir,
}

impl StandIn {
    /// `flux job info` prints a jobspec with this script.
    fn new(script: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let spec = serde_json::json!({"attributes": {"system": {
            "cwd": "/home/a b",
            "files": {"script": {"mode": 33216, "data": script, "encoding": "utf-8"}},
        }}});
        fs::write(dir.path().join("spec"), spec.to_string())?;
        let at = dir.path().display();
        let flux = format!(
            "#!/bin/sh\ncase \"$*\" in\n'job info fAbc jobspec') cat {at}/spec ;;\n\
             'job id --to=dec fAbc') echo 4711 ;;\n*) echo \"flux: $*\" >&2; exit 1 ;;\nesac\n"
        );
        let cairn = format!(
            "#!/bin/sh\nprintf '%s|' \"$@\" >>{at}/called\necho >>{at}/called\ncat >{at}/read\nexit ${{CODE:-0}}\n"
        );
        for (name, text) in [("flux", flux), ("cairn", cairn)] {
            fs::write(dir.path().join(name), text)?;
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { dir })
    }

    fn run(&self, name: &str, code: &str) -> Result<Output> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("packaging/flux")
            .join(name);
        let path = std::env::var("PATH").unwrap_or_default();
        Ok(Command::new(script)
            .env("PATH", format!("{}:{path}", self.dir.path().display()))
            .env("CODE", code)
            .env("FLUX_JOB_ID", "fAbc")
            .env("FLUX_JOB_USERID", "1000")
            .output()?)
    }

    fn called(&self) -> String {
        fs::read_to_string(self.dir.path().join("called")).unwrap_or_default()
    }
}

#[test]
fn a_prolog_of_flux_stages_and_its_epilog_ends_what_the_job_holds() -> Result<()> {
    let text = "#!/bin/sh\n#CAIRN stage_in /x\n# flux: -N4\necho \u{e4}\n";
    let flux = StandIn::new(text)?;
    let done = flux.run("prolog.sh", "0")?;
    ensure!(done.status.success(), "{done:?}");
    let begin = "job|stage-in|flux-4711|--as|1000|--wait|--script|-|--directory|/home/a b|\n";
    ensure!(flux.called() == begin, "{}", flux.called());
    ensure!(fs::read_to_string(flux.dir.path().join("read"))? == text);
    let failed = flux.run("prolog.sh", "1")?;
    ensure!(failed.status.code() == Some(1), "{failed:?}");
    let done = flux.run("epilog.sh", "0")?;
    ensure!(done.status.success(), "{done:?}");
    let end = "job|release|flux-4711|--as|1000|--script|-|--directory|/home/a b|\n";
    ensure!(flux.called().ends_with(end), "{}", flux.called());
    Ok(())
}

#[test]
fn a_job_of_flux_without_directives_is_left_alone() -> Result<()> {
    let flux = StandIn::new("#!/bin/sh\necho\n")?;
    let done = flux.run("prolog.sh", "1")?;
    ensure!(done.status.success(), "{done:?}");
    ensure!(flux.called().is_empty(), "{}", flux.called());
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
