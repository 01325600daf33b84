//! One run: fresh copies of the disks, one verb, one fault, a restart, and the invariants.

use crate::check;
use crate::fault::{Aim, Fault};
use crate::point::Point;
use crate::reference::Reference;
use crate::site::{Images, Site};
use crate::verb::{Act, During, Verb};
use anyhow::{Context, Result, ensure};

/// What a run showed, if nothing was violated.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Where the fault struck; `None` if there were fewer points this time.
    pub(crate) struck: Option<Point>,
    /// A user was told of it.
    pub(crate) told: bool,
}

/// Counts the points of a verb; nothing fails.
pub(crate) fn count(verb: &Verb, images: &Images) -> Result<Vec<Point>> {
    let mut reference = images.reference.clone();
    let mut site = Site::on(images)?;
    let mut points = Vec::new();
    act(&mut site, verb, &mut reference, Aim::Count, &mut points).with_context(|| site.log())?;
    match &verb.during {
        During::Work(_) | During::Start => site.down()?,
        During::Stop => {}
        During::Apart(program) => (program.moved)(&mut site)?,
    }
    look(&mut site, &mut reference, false, verb.after).with_context(|| site.log())?;
    Ok(points)
}

/// Strikes at the n-th point.
pub(crate) fn strike(verb: &Verb, images: &Images, n: u64, fault: Fault) -> Result<Shown> {
    let mut site = Site::on(images)?;
    let mut reference = images.reference.clone();
    struck(&mut site, verb, &mut reference, (n, fault)).with_context(|| site.log())
}

fn struck(
    site: &mut Site,
    verb: &Verb,
    reference: &mut Reference,
    (n, fault): (u64, Fault),
) -> Result<Shown> {
    let told = act(site, verb, reference, Aim::At { n, fault }, &mut Vec::new());
    let supervisor = site.supervisor.clone().context("a supervisor")?;
    let at = supervisor.struck();
    let shown = Shown {
        struck: at.clone(),
        told: told.is_err(),
    };
    let place = || {
        let at = at
            .as_ref()
            .map_or("no point".to_owned(), ToString::to_string);
        let said = told.as_ref().err().map(|why| format!("{why:#}"));
        format!(
            "{fault} at {n} of {}, {at}; the user was told: {said:?}",
            verb.name
        )
    };
    let alive = site.is_running() && (at.is_none() || fault.is_survived());
    if let Err(why) = &told {
        let wrong = format!("{why:#}");
        let bad = ["WRONG", "HANGS", "PANIC"]
            .iter()
            .any(|w| wrong.contains(w));
        ensure!(!bad && at.is_some(), "{}", place());
    }
    ensure!(!supervisor.hung(), "HANGS: {}", place());
    let ended = if alive {
        lives(site, verb, reference, fault).with_context(place)
    } else {
        dies(site, fault).with_context(place)
    };
    ended?;
    // A program that is not needed is asked for again at every other point.
    let done = told.is_ok() || n % 2 == 1 && !verb.is_needed();
    resume(site, verb, reference, done).with_context(place)?;
    let dark = matches!(fault, Fault::Power | Fault::FailsThenPower(_));
    look(site, reference, dark, verb.after).with_context(place)?;
    Ok(shown)
}

/// Does the verb under supervision. What the user is told of it, if it failed.
fn act(
    site: &mut Site,
    verb: &Verb,
    reference: &mut Reference,
    aim: Aim,
    points: &mut Vec<Point>,
) -> Result<()> {
    let told = match &verb.during {
        During::Start => site
            .up(aim, true)
            .and_then(|()| check::settle(site).map(drop)),
        During::Work(work) => {
            begin(site, aim)?;
            work(site, reference).and_then(|()| check::settle(site).map(drop))
        }
        During::Apart(program) => {
            let args = (program.arguments)(site);
            site.apart(aim, &args)
        }
        During::Stop => {
            begin(site, aim)?;
            let supervisor = site.supervisor.clone().context("a supervisor")?;
            let stopped = site.cairn.down();
            points.extend(supervisor.points());
            return stopped.and_then(|()| site.ended());
        }
    };
    let supervisor = site.supervisor.clone().context("a supervisor")?;
    let _ = supervisor.arm(false);
    points.extend(supervisor.points());
    told
}

/// Starts, settles, and arms.
fn begin(site: &mut Site, aim: Aim) -> Result<()> {
    site.up(aim, false)?;
    check::settle(site)?;
    site.supervisor.as_ref().context("a supervisor")?.arm(true);
    Ok(())
}

/// The process lives on after the fault: it serves, does the same again, and stops.
fn lives(site: &mut Site, verb: &Verb, reference: &mut Reference, fault: Fault) -> Result<()> {
    if matches!(fault, Fault::FailsThenPower(_)) {
        site.outage()?;
        return site.power_on();
    }
    if !verb.mends {
        check::living(site, reference)?;
    }
    if let (During::Work(work), true) = (&verb.during, verb.again) {
        work(site, reference).context("STUCK: the same again, without a fault")?;
    }
    if verb.mends {
        check::living(site, reference)?;
    }
    if fault == Fault::Fails(libc::ENOSPC) {
        return site.kill();
    }
    site.down().context("STUCK: down")
}

/// It is dead, of the fault or because it gave up.
fn dies(site: &mut Site, fault: Fault) -> Result<()> {
    if site.cairn.pid().is_some() {
        site.kill()?;
    } else {
        site.ended()?;
    }
    match fault {
        Fault::Power => site.power_on(),
        Fault::FailsThenPower(_) => {
            site.cut_power()?;
            site.power_on()
        }
        Fault::Fails(_) | Fault::Crash => Ok(()),
    }
}

/// What is the administrator's after a verb without which the files are not all there, unless it is
/// `done`: the same again.
fn resume(site: &mut Site, verb: &Verb, reference: &mut Reference, done: bool) -> Result<()> {
    match &verb.during {
        During::Apart(program) => {
            if !done {
                program
                    .again(site)
                    .context("STUCK: the same again, without a fault")?;
            }
            (program.moved)(site)
        }
        During::Work(work) if verb.mends => {
            site.up(Aim::Count, false)
                .context("STUCK: the start before the same again")?;
            check::settle(site)?;
            work(site, reference).context("STUCK: the same again, after a start")?;
            site.down()
        }
        During::Work(_) | During::Start | During::Stop => Ok(()),
    }
}

/// Starts without a fault, and looks at everything.
pub(crate) fn again(site: &mut Site, reference: &mut Reference, dark: bool) -> Result<()> {
    look(site, reference, dark, |_, _| Ok(()))
}

/// The same, and at what holds of the verb.
fn look(site: &mut Site, reference: &mut Reference, dark: bool, after: Act) -> Result<()> {
    site.up(Aim::Count, false)
        .context("STUCK: the next start")?;
    check::restarted(site, reference, dark)?;
    after(site, reference).context("after the verb, at the end")?;
    site.down().context("STUCK: the last stop")?;
    check::stopped(site)
}
