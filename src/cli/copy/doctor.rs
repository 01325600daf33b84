//! `cairn doctor`: what a container, or a node, lacks for streams to and from a server; the one thing to do about it.

use super::{Far, or_interrupted, runtime};
use crate::cli::output::Output;
use crate::cli::{CliError, names};
use crate::client::remote::probe::{self, Probe, Rate};
use crate::client::remote::session::Listening;
use crate::client::remote::{Link, Server};
use crate::config::units::parse_size;
use crate::config::units::shown::Bytes;
use crate::error::Failure;
use crate::server::wire::{DoctorReport, Hello, PathReport};
use cairn_mover::Protect;
use clap::Args;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

/// Clocks that differ by more than this are told as a fault: certificates and times of files are wrong with them.
const SKEW_MS: u64 = 5_000;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Bytes that each way is tried with.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    size: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    far: Far,
}

impl Doctor {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        let server = self.far.server()?;
        let report = runtime()?.block_on(or_interrupted(self.look(&server)))?;
        let works = report.firewall.works || report.parallel.as_ref().is_some_and(|p| p.works);
        let mut output = Output::new(self.json);
        if self.json {
            output.object(report)?;
        } else {
            lines(&report)
                .into_iter()
                .try_for_each(|l| output.line(l))?;
        }
        output.finish()?;
        Ok(if works {
            0
        } else {
            Failure::TimedOut.exit_code()
        })
    }

    async fn look(&self, server: &Server) -> Result<DoctorReport, CliError> {
        let mut link = Link::connect(server).await?;
        let (hello, skew_ms, round_trip_ms) = clocks(&mut link).await?;
        let probe = Probe {
            bytes: self.size.clamp(1, 1 << 30),
            streams: self.far.streams.unwrap_or(4).min(16),
            protect: match &self.far.protect {
                Some(word) => word.parse().map_err(CliError::usage)?,
                None => Protect::Sealed,
            },
        };
        let listening = self.far.listening().await?;
        let parallel = match &listening {
            Some(listening) => Some(probe::dialled(&mut link, listening, probe).await?),
            None => None,
        };
        let firewall = probe::dialling(&mut link, &self.far.dial, probe).await?;
        let (advertised, bound) = listening.as_ref().map(places).unwrap_or_default();
        let mut report = DoctorReport {
            server: server.place(),
            uid: hello.uid,
            version: hello.version,
            local: link.local().ip().to_canonical().to_string(),
            seen_as: hello.seen_as,
            skew_ms,
            round_trip_ms,
            advertised,
            bound,
            parallel: parallel.map(path),
            firewall: path(firewall),
            missing: None,
        };
        report.missing = missing(&report);
        Ok(report)
    }
}

/// The quickest of some answers tells the clocks apart best.
async fn clocks(link: &mut Link) -> Result<(Hello, i64, u64), CliError> {
    let mut best: Option<(Hello, i64, u64)> = None;
    for _ in 0..5 {
        let (begun, sent) = (Instant::now(), SystemTime::now());
        let hello = link.hello().await?;
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let since = sent.duration_since(SystemTime::UNIX_EPOCH);
        let sent = since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(0));
        let half = i64::try_from(took / 2).unwrap_or(0);
        let skew = hello.now_ms - sent - half;
        if best.as_ref().is_none_or(|(_, _, least)| took < *least) {
            best = Some((hello, skew, took));
        }
    }
    best.ok_or_else(|| CliError::new(Failure::Internal, "no answer"))
}

fn places(listening: &Listening) -> (Vec<String>, Vec<String>) {
    let places = listening.listener.places(&listening.hosts);
    let advertised = places.iter().flat_map(|place| {
        let runs = place.ports.iter();
        runs.map(|(first, last)| match first == last {
            true => format!("{}:{first}", place.host),
            false => format!("{}:{first}-{last}", place.host),
        })
    });
    let bound = listening.listener.addresses().iter();
    (
        advertised.collect(),
        bound.map(ToString::to_string).collect(),
    )
}

fn path(probed: Result<Rate, String>) -> PathReport {
    match probed {
        Ok(rate) => PathReport {
            works: true,
            why: None,
            streams: rate.streams,
            // A rate is finite and positive.
            bytes_per_second: rate.bytes_per_second as u64,
        },
        Err(why) => PathReport {
            works: false,
            why: Some(in_short(&why)),
            streams: 0,
            bytes_per_second: 0,
        },
    }
}

/// What went wrong, without what stands beside it anyway.
fn in_short(why: &str) -> String {
    let why = why.trim_start_matches("the server cannot reach you: ");
    why.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn lines(report: &DoctorReport) -> Vec<String> {
    let way = |path: &PathReport| match &path.why {
        None => format!(
            "{} streams, {}/s from the server",
            path.streams,
            Bytes(path.bytes_per_second)
        ),
        Some(why) => format!("no: {why}"),
    };
    let nat = match report.local == report.seen_as {
        true => "no address translation".to_owned(),
        false => format!("behind address translation: here it is {}", report.local),
    };
    let skew = report.skew_ms.unsigned_abs();
    let clock = match (skew <= report.round_trip_ms, report.skew_ms > 0) {
        (true, _) => "the same as here".to_owned(),
        (false, true) => format!("{skew} ms ahead of this one"),
        (false, false) => format!("{skew} ms behind this one"),
    };
    let advertised = match report.advertised.as_slice() {
        [] => "nothing: CAIRN_HOSTNAME is not set".to_owned(),
        some => some.join(" "),
    };
    let parallel = match &report.parallel {
        None => "not tried".to_owned(),
        Some(path) => way(path),
    };
    let todo = match &report.missing {
        None => "nothing is missing".to_owned(),
        Some(what) => what.clone(),
    };
    vec![
        format!(
            "server      {}, cairn {}, as {}, {} ms away",
            report.server,
            report.version,
            names::user(report.uid),
            report.round_trip_ms
        ),
        format!("seen as     {}, {nat}", report.seen_as),
        format!("its clock   {clock}"),
        format!("advertised  {advertised}"),
        format!("dialled     {parallel}"),
        format!("dialling    {}", way(&report.firewall)),
        format!("to do       {todo}"),
    ]
}

/// The one setting, or rule, that is missing.
fn missing(report: &DoctorReport) -> Option<String> {
    if report.skew_ms.unsigned_abs() > SKEW_MS + report.round_trip_ms {
        return Some(
            "set the clocks: both hosts should follow the same time servers (NTP)".to_owned(),
        );
    }
    let firewall = &report.firewall;
    match &report.parallel {
        Some(path) if path.works => None,
        Some(path) if firewall.works => {
            Some(unreached(report, path.why.as_deref().unwrap_or_default()))
        }
        None if firewall.works => None,
        Some(_) | None => Some(format!(
            "streams do not reach the server's port, though calls do ({}): behind a proxy, the server needs \
             `cairn serve --advertise HOST:PORT`, and this end CAIRN_DIAL=NETWORK",
            firewall.why.as_deref().unwrap_or_default()
        )),
    }
}

/// Why a server that was told where to dial does not come through.
fn unreached(report: &DoctorReport, why: &str) -> String {
    let hosts: Vec<&str> = report
        .advertised
        .iter()
        .filter_map(|place| place.rsplit_once(':'))
        .map(|(host, _)| host.trim_matches(['[', ']']))
        .collect();
    let is_address = hosts.iter().all(|host| host.parse::<IpAddr>().is_ok());
    let host = hosts.first().copied().unwrap_or("ADDRESS");
    if is_address && !hosts.contains(&report.seen_as.as_str()) {
        return format!(
            "set CAIRN_HOSTNAME={}, the address that the server sees, or have its administrator permit this one: \
             cairn serve --dial {host}/{}",
            report.seen_as,
            if host.contains(':') { 128 } else { 32 }
        );
    }
    let ports = report.advertised.join(" ");
    if report.local != report.seen_as {
        return format!(
            "publish the ports: nothing at {ports} leads here ({why}); podman run -p ADVERTISED:BOUND, and \
             CAIRN_PORT_RANGE=ADVERTISED:BOUND; or set nothing, and dial out"
        );
    }
    format!(
        "let the server in: a firewall must permit TCP from it to {ports} ({why}); or use --dial-out"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(local: &str, advertised: &[&str], parallel: Option<bool>) -> DoctorReport {
        let path_report = |works: bool| PathReport {
            works,
            why: (!works).then(|| "connection refused".to_owned()),
            streams: 4,
            bytes_per_second: 100 << 20,
        };
        DoctorReport {
            server: "archive:7300".to_owned(),
            uid: 0,
            version: "0".to_owned(),
            local: local.to_owned(),
            seen_as: "192.0.2.7".to_owned(),
            skew_ms: 3,
            round_trip_ms: 10,
            advertised: advertised.iter().map(|a| (*a).to_owned()).collect(),
            bound: Vec::new(),
            parallel: parallel.map(path_report),
            firewall: path_report(true),
            missing: None,
        }
    }

    #[test]
    fn each_fault_has_one_thing_to_do() {
        let says = |report: &DoctorReport| missing(report).unwrap_or_default();
        assert_eq!(says(&report("192.0.2.7", &[], None)), "");
        let good = report("172.17.0.2", &["192.0.2.7:7010-7019"], Some(true));
        assert_eq!(says(&good), "");
        let own = report("172.17.0.2", &["172.17.0.2:7000-7009"], Some(false));
        assert!(says(&own).starts_with("set CAIRN_HOSTNAME=192.0.2.7"));
        let hidden = report("172.17.0.2", &["192.0.2.7:7010-7019"], Some(false));
        assert!(says(&hidden).starts_with("publish the ports"));
        let walled = report("192.0.2.7", &["192.0.2.7:7000-7009"], Some(false));
        assert!(says(&walled).starts_with("let the server in"));
        let mut proxied = report("192.0.2.7", &[], None);
        proxied.firewall.works = false;
        assert!(says(&proxied).contains("--advertise"));
        let mut late = good;
        late.skew_ms = -60_000;
        assert!(says(&late).starts_with("set the clocks"));
        assert!(lines(&late)[2].contains("60000 ms behind"));
    }
}
