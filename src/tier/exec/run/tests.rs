//! Runs of small scripts that behave badly.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);
const BRIEF: Duration = Duration::from_millis(300);

struct Bench {
    place: TempDir,
    program: Program,
}

fn bench(script: &str) -> Bench {
    let place = tempfile::tempdir().expect("temporary directory");
    let path = place.path().join("program");
    let text = format!("#!/bin/sh\ncd {}\n{script}\n", place.path().display());
    fs::write(&path, text).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
    let program = Program {
        path,
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        grace: Duration::from_millis(500),
        ..Program::default()
    };
    Bench { place, program }
}

impl Bench {
    fn start(&self) -> Run {
        // A thread that forks while the script was open for writing keeps it busy for a moment.
        loop {
            match self.program.start(&["verb", "a b"], true) {
                Err(Failure::Start(why)) if why.contains("busy") => {}
                other => return other.expect("starts"),
            }
        }
    }

    fn output(&self, limit: Duration) -> Result<Vec<u8>, Failure> {
        let mut taken = Vec::new();
        self.start().succeed(Limit::of(limit), &mut |bytes| {
            taken.extend_from_slice(bytes);
            true
        })?;
        Ok(taken)
    }

    /// The number that the script wrote into this file.
    fn pid(&self, file: &str) -> String {
        let path = self.place.path().join(file);
        let mut text = String::new();
        for _ in 0..2000 {
            text = fs::read_to_string(&path).unwrap_or_default();
            if text.ends_with('\n') {
                return text.trim().to_owned();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{file} holds {text:?}")
    }
}

/// Neither runs nor waits to be reaped. (One whose parent is gone is reaped by the system, in its own time.)
fn is_gone(pid: &str) -> bool {
    let stat = Path::new("/proc").join(pid).join("stat");
    (0..2000).any(|_| {
        let text = fs::read_to_string(&stat).unwrap_or_default();
        let gone = text.is_empty() || text.contains(") Z 1 ");
        if !gone {
            std::thread::sleep(Duration::from_millis(5));
        }
        gone
    })
}

fn is_reaped(pid: &str) -> bool {
    !Path::new("/proc").join(pid).exists()
}

#[test]
fn a_program_that_answers_while_it_is_fed_is_not_waited_for_by_both() {
    let bench = bench("cat; echo done >&2");
    let mut run = bench.start();
    let bytes = vec![7_u8; 8 << 20];
    run.feed(&bytes, Limit::of(LONG)).expect("fed");
    run.succeed(Limit::of(LONG), &mut |_| true).expect("ends");
    assert_eq!(run.words(), "done");
}

#[test]
fn a_flood_of_words_is_taken_and_forgotten() {
    let bench = bench("cat >got; head -c 50000000 /dev/zero | tr '\\0' x >&2; echo; echo end >&2");
    let mut run = bench.start();
    run.feed(b"bytes", Limit::of(LONG)).expect("fed");
    run.succeed(Limit::of(LONG), &mut |_| true).expect("ends");
    assert!(run.words().ends_with("xend") && run.words().len() <= 600);
    assert_eq!(
        fs::read(bench.place.path().join("got")).expect("got"),
        b"bytes"
    );
}

#[test]
fn a_silent_program_is_ended_with_all_that_it_started() {
    for script in [
        "echo $$ >own; sleep 1000 & echo $! >other; wait",
        // Deaf to the first word.
        "trap '' TERM; echo $$ >own; (trap '' TERM; while :; do sleep 1; done) & echo $! >other; wait; wait",
        // Words are no progress.
        "echo $$ >own; (while :; do echo still here >&2; done) & echo $! >other; wait",
    ] {
        let bench = bench(script);
        match bench.output(BRIEF) {
            Err(why @ Failure::Silent { .. }) => {
                let said = why.to_string();
                let wanted = "verb was ended: it took and gave nothing for 300ms (timeout= of the tier's URL)";
                assert!(said.starts_with(wanted), "{said}");
            }
            other => panic!("{script}: {other:?}"),
        }
        assert!(is_reaped(&bench.pid("own")), "{script}");
        assert!(is_gone(&bench.pid("other")), "{script}");
    }
}

#[test]
fn one_that_takes_no_bytes_is_ended_too() {
    let bench = bench("echo $$ >own; sleep 1000");
    let mut run = bench.start();
    let fed = run.feed(&vec![0; 8 << 20], Limit::of(BRIEF));
    assert!(matches!(fed, Err(Failure::Silent { .. })), "{fed:?}");
    assert!(is_reaped(&bench.pid("own")));
}

#[test]
fn slow_is_not_silent() {
    let bench = bench("for n in 1 2 3 4 5 6 7 8; do sleep 0.2; echo $n; done");
    let limit = Duration::from_millis(1200);
    assert_eq!(bench.output(limit).expect("ends").len(), 16);
}

#[test]
fn what_it_leaves_running_is_ended_and_not_waited_for() {
    let bench = bench("sleep 1000 & echo $! >other; echo $$ >own; echo bytes");
    assert_eq!(bench.output(LONG).expect("ends"), b"bytes\n");
    assert!(is_reaped(&bench.pid("own")));
    assert!(is_gone(&bench.pid("other")));
    // In a session of its own, with our pipes in its hands: as ssh's masters are.
    let bench = bench_apart();
    assert_eq!(bench.output(LONG).expect("ends"), b"bytes\n");
    let other = bench.pid("other").parse().expect("number");
    let pid = Pid::from_raw(other).expect("a process");
    rustix::process::kill_process(pid, Signal::KILL).expect("it lives, and is ours to end");
}

fn bench_apart() -> Bench {
    bench(
        "setsid sh -c 'echo $$ >other; exec sleep 1000' & while [ ! -s other ]; do sleep 0.01; done; echo bytes",
    )
}

#[test]
fn a_dropped_run_leaves_nothing() {
    let bench = bench("sleep 1000 & echo $! >other; echo $$ >own; wait");
    let run = bench.start();
    let (own, other) = (bench.pid("own"), bench.pid("other"));
    drop(run);
    assert!(is_reaped(&own) && is_gone(&other));
}

#[test]
fn programs_that_do_not_end_are_counted_and_no_more_of_them_started() {
    let mut bench = bench("trap '' TERM; echo $$ >own; while :; do sleep 0.05; done");
    // As one in the kernel does, it does not hear the last word either.
    bench.program.last = Signal::CONT;
    bench.program.grace = Duration::from_millis(50);
    bench.program.most_stuck = 2;
    let mut pids = Vec::new();
    for count in 1..=2 {
        let run = bench.start();
        pids.push(bench.pid("own"));
        fs::remove_file(bench.place.path().join("own")).expect("removed");
        drop(run);
        assert_eq!(bench.program.stuck(), count);
    }
    let why = bench.program.start(&["verb"], false).map(drop);
    let why = why.expect_err("one more");
    assert!(matches!(why, Failure::Stuck(2)), "{why}");
    assert!(why.to_string().contains("although they were killed"));
    for pid in &pids {
        let pid = Pid::from_raw(pid.parse().expect("number")).expect("a process");
        rustix::process::kill_process(pid, Signal::KILL).expect("it lives, and is ours to end");
    }
    // They are reaped without a thread that waits for them.
    for _ in 0..2000 {
        if bench.program.stuck() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(bench.program.stuck(), 0);
    assert!(pids.iter().all(|pid| is_reaped(pid)));
    // It does not outlive the test.
    bench.program.last = Signal::KILL;
    assert!(bench.program.start(&["verb"], false).is_ok());
}

#[test]
fn a_link_is_followed_before_it_is_run_and_the_program_knows_what_it_was_called() {
    let bench = bench("echo \"$0\"");
    let real = bench.program.path.canonicalize().expect("path");
    let mut linked = Program {
        path: bench.place.path().join("link"),
        ..Program::default()
    };
    std::os::unix::fs::symlink("program", &linked.path).expect("link");
    let says = |program: &Program| {
        let mut taken = Vec::new();
        let mut run = program.start(&[], false).expect("starts");
        let done = run.succeed(Limit::of(LONG), &mut |bytes| {
            taken.extend_from_slice(bytes);
            true
        });
        done.expect("ends");
        String::from_utf8_lossy(&taken).trim().to_owned()
    };
    assert_eq!(says(&linked), real.display().to_string());
    // A binary that has several names sees which of them it was.
    linked.path = bench.place.path().join("binary");
    std::os::unix::fs::symlink("/bin/sh", &linked.path).expect("link");
    let mut run = linked.start(&["-c", "echo $0"], false).expect("starts");
    let mut taken = Vec::new();
    run.succeed(Limit::of(LONG), &mut |bytes| {
        taken.extend_from_slice(bytes);
        true
    })
    .expect("ends");
    let said = String::from_utf8_lossy(&taken);
    assert_eq!(said.trim(), linked.path.display().to_string());
}

#[test]
fn its_end_and_its_last_words_are_told() {
    let bench = bench("cat >/dev/null; echo first >&2; echo last >&2; exit 113");
    let why = bench.output(LONG).expect_err("fails");
    assert_eq!(
        why.to_string(),
        "exit code 113: no room; it said: first; last"
    );
    assert!(matches!(
        why,
        Failure::Ended {
            how: Ended::Code(113),
            ..
        }
    ));
    let killed = bench_text("kill -9 $$").output(LONG).expect_err("fails");
    assert!(
        matches!(
            killed,
            Failure::Ended {
                how: Ended::Signal(9),
                ..
            }
        ),
        "{killed}"
    );
    // While there are bytes for it.
    let bench = bench_text("head -c 10 >/dev/null; echo full >&2; exit 113");
    let why = bench
        .start()
        .feed(&vec![0; 8 << 20], Limit::of(LONG))
        .expect_err("ends early");
    assert_eq!(why.to_string(), "exit code 113: no room; it said: full");
    let why = bench_text("exit 0")
        .start()
        .feed(&vec![0; 8 << 20], Limit::of(LONG));
    assert!(matches!(why, Err(Failure::Breach { .. })), "{why:?}");
}

fn bench_text(script: &str) -> Bench {
    bench(script)
}

#[test]
fn it_gets_its_pipes_its_words_and_nothing_else() {
    // A descriptor that is not closed by itself.
    let leak = rustix::io::dup(std::io::stderr()).expect("dup");
    let bench =
        bench("ls /proc/self/fd; pwd; umask; ps -o tty= -p $$; echo \"$@\"; cd /; env | sort");
    let text = String::from_utf8(bench.output(LONG).expect("ends")).expect("text");
    drop(leak);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    // The third is of `ls` itself.
    assert_eq!(lines[..4], ["0", "1", "2", "3"], "{text}");
    assert_eq!(lines[5..8], ["0077", "?", "verb a b"], "{text}");
    let own = ["PATH=/usr/bin:/bin"];
    let shells = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
    let strange = lines[8..]
        .iter()
        .find(|line| !own.contains(line) && !shells.iter().any(|s| line.starts_with(s)));
    assert_eq!(strange, None, "{text}");
}

#[test]
fn what_cannot_be_started_says_why() {
    let whole = bench("exit 0");
    let path = &whole.program.path;
    let start = || match whole.program.start(&["x"], false) {
        Err(Failure::Start(why)) => why,
        other => panic!("{:?}", other.map(|_| ())),
    };
    fs::write(path, "#!/no/such/shell\n").expect("script");
    assert!(start().contains("interpreter"), "{}", start());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
    assert!(start().contains("chmod 0755"), "{}", start());
    fs::remove_file(path).expect("removed");
    assert!(start().contains("No such file"), "{}", start());
}
