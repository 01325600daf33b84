//! A workflow service submits: through nginx and slurmrestd, with a token.

use crate::needs_slurm;
use crate::rig::wait_for;
use crate::site::{Site, USER, installed, port};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// The front door: nginx before slurmrestd.
pub(crate) fn doors(site: &mut Site) -> Result<String> {
    let (front, back) = (port()?, port()?);
    let mut rest = Command::new("/usr/sbin/slurmrestd");
    rest.args(["-a", "rest_auth/jwt", "-s", "openapi/v0.0.38"])
        .arg(format!("127.0.0.1:{back}"));
    site.start_as_nobody(rest, "slurmrestd", &[("SLURM_JWT", "daemon")])?;
    let at = |name: &str| site.path(name).display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {};\n", at(&format!("log/nginx-{kind}"))))
        .collect();
    let conf = format!(
        "daemon off;\npid {};\nerror_log {};\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\
         server {{ listen 127.0.0.1:{front}; location /slurm/ {{ proxy_pass http://127.0.0.1:{back}; }} }}\n}}\n",
        at("log/nginx.pid"),
        at("log/nginx.log"),
    );
    let path = site.path("etc/nginx.conf");
    fs::write(&path, conf)?;
    let mut nginx = Command::new("/usr/sbin/nginx");
    nginx
        .arg("-e")
        .arg(site.path("log/nginx.log"))
        .arg("-c")
        .arg(path);
    site.start(nginx, "nginx")?;
    Ok(format!("http://127.0.0.1:{front}/slurm/v0.0.38"))
}

/// What the door answers: the status, and the body if it is JSON.
pub(crate) fn call(
    site: &Site,
    url: &str,
    token: &str,
    body: Option<&Value>,
) -> Result<(String, Value)> {
    let mut curl = site.command("curl", None);
    curl.args(["-s", "-S", "-w", "\n%{http_code}", "-H"])
        .arg(format!("X-SLURM-USER-NAME: {}", USER.name))
        .arg("-H")
        .arg(format!("X-SLURM-USER-TOKEN: {token}"));
    if let Some(body) = body {
        curl.args([
            "-H",
            "Content-Type: application/json",
            "-d",
            &body.to_string(),
        ]);
    }
    let output = curl.arg(url).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    Ok((
        status.to_owned(),
        serde_json::from_str(body).unwrap_or(Value::Null),
    ))
}

#[test]
fn a_job_comes_through_nginx_and_slurmrestd_with_a_token() -> Result<()> {
    needs_slurm!();
    if let Some(why) = ["slurmrestd", "nginx", "curl"]
        .iter()
        .find_map(|name| installed(name))
    {
        eprintln!("SKIPPED a_job_comes_through_nginx_and_slurmrestd_with_a_token: {why}");
        return Ok(());
    }
    let mut site = Site::with_tokens("dir", "delay=0s")?;
    site.released("in", 3, 100_000)?;
    let url = doors(&mut site)?;
    let user = format!("username={}", USER.name);
    let said = site.slurm("scontrol", ["token", &user, "lifespan=600"])?;
    let token = said
        .trim()
        .strip_prefix("SLURM_JWT=")
        .context("no token")?
        .to_owned();
    wait_for("the doors", || {
        Ok(call(&site, &format!("{url}/ping"), &token, None)?.0 == "200")
    })
    .with_context(|| site.logs())?;
    let home = site.path("home").display().to_string();
    let script = format!(
        "#!/bin/bash\n#CAIRN stage_in {}\necho ran\n",
        site.cairn.at("in").display()
    );
    let body = json!({
        "script": script,
        "job": {
            "name": "rest",
            "environment": {"PATH": "/usr/bin:/bin"},
            "current_working_directory": home,
            "standard_output": format!("{home}/%j.out"),
        },
    });
    let submit = format!("{url}/job/submit");
    for bad in ["", "x.y.z", &format!("{token}x")] {
        let (status, answer) = call(&site, &submit, bad, Some(&body))?;
        eprintln!("bad token: {status} {}", answer["errors"]);
        ensure!(status != "200" && site.jobs()? == 0, "{answer}");
    }
    let before = site.recalls()?;
    let (status, answer) = call(&site, &submit, &token, Some(&body))?;
    ensure!(status == "200", "{status} {answer}");
    let job = answer["job_id"].as_u64().context("no number")?.to_string();
    site.shows(&job, "JobState=COMPLETED")?;
    ensure!(site.output(&job) == "ran\n", "{}", site.output(&job));
    let after = site.recalls()?;
    ensure!(after == (before.0 + 3, before.1), "{before:?} {after:?}");
    let wrong = json!({
        "script": "#!/bin/bash\n#CAIRN stage_on /x\necho ran\n",
        "job": {"environment": {"PATH": "/bin"}, "current_working_directory": home},
    });
    let (status, answer) = call(&site, &submit, &token, Some(&wrong))?;
    eprintln!("a wrong directive: {status} {}", answer["errors"]);
    ensure!(site.jobs()? == 1, "{status} {answer}");
    Ok(())
}
