//! Moves some GiB between two processes over the loopback interface, and says what it cost, beside iperf3.
//!
//!     cargo run --release -p cairn-mover --example loopback -- --gib 4 --streams 4
//!     ... --to FILE --from FILE --protect privacy --block 524288 --writers 4
//!
//! The source is one block in memory, again and again, unless `--from` names a file; the sink
//! forgets, unless `--to` names one.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement that cannot be made stops"
)]

use cairn_mover::{
    BLOCK_DEFAULT, ByteRange, DialRule, Dialler, Direction, Door, Iod, ListenOptions, Listener,
    Mode, Options, Progress, Protect, Secret, Sink, Source, Streams, TransferId, receive, send,
};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What the command line asks for.
struct Asked(Vec<String>);

impl Asked {
    fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|a| a == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn number(&self, name: &str, otherwise: u64) -> u64 {
        self.text(name)
            .map_or(otherwise, |t| t.parse().expect("a number"))
    }
}

struct Pattern(Vec<u8>);

impl Source for Pattern {
    fn read_at(&self, _: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.0[..buffer.len()]);
        Ok(())
    }

    fn unchanged(&self) -> io::Result<bool> {
        Ok(true)
    }
}

struct Whole(File);

impl Source for Whole {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn unchanged(&self) -> io::Result<bool> {
        Ok(true)
    }
}

struct Forgets;

impl Sink for Forgets {
    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Written, and left to the page cache, as iperf3 does.
struct Kept(File);

impl Sink for Kept {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// CPU seconds, and the highest resident memory in MiB, of this process.
fn cost() -> (f64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let behind = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = behind.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    let peak: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    (ticks / 100.0, peak / 1024)
}

fn options(asked: &Asked) -> Options {
    Options {
        streams: Streams::All,
        writers: asked.number("--writers", 2) as usize,
        ..Options::default()
    }
}

/// The listening end: says the descriptor, receives, says what it cost.
async fn serve(asked: &Asked) {
    let streams = asked.number("--streams", 4) as u16;
    let size = asked.number("--gib", 4) << 30;
    let listen = ListenOptions {
        bind: LOCAL,
        ports: None,
        want: streams.into(),
        handshake: Duration::from_secs(10),
    };
    let listener = Listener::bind(&listen).await.unwrap();
    let iod = Iod {
        transfer: TransferId::generate().unwrap(),
        secret: Secret::generate().unwrap(),
        direction: Direction::ToListener,
        mode: Mode::Firewall,
        protect: asked
            .text("--protect")
            .unwrap_or("none")
            .parse::<Protect>()
            .unwrap(),
        block: asked.number("--block", BLOCK_DEFAULT.into()) as u32,
        streams,
        offer: 10,
        size,
        version: Vec::new(),
        places: listener.places(&["127.0.0.1".parse().unwrap()]),
        ranges: vec![ByteRange::new(0, size).unwrap()],
    };
    let door = listener.expect(&iod).unwrap();
    let hex: String = iod
        .encode()
        .unwrap()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    println!("{hex}");
    io::stdout().flush().unwrap();
    let sink: Arc<dyn Sink> = match asked.text("--to") {
        Some(path) => Arc::new(Kept(File::create(path).unwrap())),
        None => Arc::new(Forgets),
    };
    let before = cost().0;
    let progress = Progress::new(&iod.version, size);
    let received = receive(door, &iod, sink, progress, &options(asked))
        .await
        .unwrap();
    let (cpu, peak) = cost();
    println!("{} {} {}", cpu - before, peak, received.crc.unwrap());
}

async fn dial(asked: &Asked, hex: &str) -> (f64, String) {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    let iod = Iod::decode(&bytes).unwrap();
    let rule = DialRule::new(LOCAL, Vec::new());
    let door = Door::Dialling(Dialler::new(&iod, &rule).await.unwrap());
    let source: Arc<dyn Source> = match asked.text("--from") {
        Some(path) => Arc::new(Whole(File::open(path).unwrap())),
        None => Arc::new(Pattern((0..iod.block).map(|n| (n % 251) as u8).collect())),
    };
    let begun = Instant::now();
    let sent = send(door, &iod, source, &options(asked)).await.unwrap();
    (begun.elapsed().as_secs_f64(), sent.crc.to_string())
}

/// GiB a second by iperf3 with as many streams, if it is here.
fn iperf(asked: &Asked) -> Option<f64> {
    let port = std::net::TcpListener::bind((LOCAL, 0))
        .ok()?
        .local_addr()
        .ok()?
        .port()
        .to_string();
    let mut server = Command::new("iperf3")
        .args(["-s", "-1", "-B", "127.0.0.1", "-p", &port])
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    std::thread::sleep(Duration::from_millis(500));
    let streams = asked.number("--streams", 4);
    let each = (asked.number("--gib", 4) << 30) / streams;
    let (streams, each) = (streams.to_string(), each.to_string());
    let client = Command::new("iperf3")
        .args([
            "-c",
            "127.0.0.1",
            "-p",
            &port,
            "-P",
            &streams,
            "-n",
            &each,
            "-J",
        ])
        .output()
        .ok()?;
    let _ = server.wait();
    let said = String::from_utf8_lossy(&client.stdout).into_owned();
    let (_, sum) = said.split_once("\"sum_received\"")?;
    let (_, rate) = sum.split_once("\"bits_per_second\":")?;
    let rate: f64 = rate
        .trim_start()
        .split([',', '\n'])
        .next()?
        .trim()
        .parse()
        .ok()?;
    Some(rate / 8.0 / f64::from(1 << 30))
}

#[tokio::main]
async fn main() {
    let asked = Asked(std::env::args().skip(1).collect());
    if asked.0.iter().any(|a| a == "--serve") {
        return serve(&asked).await;
    }
    let gib = asked.number("--gib", 4) as f64;
    let other = asked.number("--iperf", 1) == 1;
    let iperf = other.then(|| iperf(&asked)).flatten();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(&asked.0)
        .arg("--serve")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let hex = lines.next().unwrap().unwrap();
    let before = cost().0;
    let (seconds, crc) = dial(&asked, &hex).await;
    let (cpu, peak) = cost();
    let theirs = lines.next().unwrap().unwrap();
    let theirs: Vec<&str> = theirs.split(' ').collect();
    assert!(child.wait().unwrap().success() && theirs[2] == crc);
    let rate = gib / seconds;
    println!("moved {gib} GiB in {seconds:.2} s: {rate:.2} GiB/s, CRC32C {crc}");
    let received: f64 = theirs[0].parse().unwrap();
    println!(
        "sender:   {:.2} CPU s/GiB, peak {peak} MiB",
        (cpu - before) / gib
    );
    println!(
        "receiver: {:.2} CPU s/GiB, peak {} MiB",
        received / gib,
        theirs[1]
    );
    match iperf {
        Some(iperf) => println!("iperf3:   {iperf:.2} GiB/s; ratio {:.2}", rate / iperf),
        None => println!("iperf3:   not run"),
    }
}
