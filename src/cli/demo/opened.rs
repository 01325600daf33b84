//! One archive of the demo, opened with others' tools: python and tar, tar alone, curl and tar.

use super::DemoError;
use super::stage::{Place, io, run};
use crate::tier::TierUrl;
use crate::tier::s3::S3Place;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What takes tape files out of an image.
const SCRIPT: &str = include_str!("../../../examples/tap_files.py");

/// Opens one, wherever it lies, and shows how.
pub(super) fn one(place: &Place) -> Result<(), DemoError> {
    match place.tier.as_ref().map(|(url, _)| url) {
        None => of_library(place, &place.state().join("library")),
        Some(TierUrl::Tape { path, .. }) => of_library(place, path),
        Some(TierUrl::Dir { path, .. }) => {
            println!("5. An archive is a file, and the system's own tar opens it.");
            let Some(file) = largest(&path.join("aggregates"), true)? else {
                return Err(DemoError::NotDone("no archive was written".into()));
            };
            list(place, &file)
        }
        Some(TierUrl::S3(bucket)) => of_bucket(place, bucket),
        Some(TierUrl::Mover { name, .. }) => {
            println!("5. An archive is plain tar, on the host of mover {name}.\n");
            Ok(())
        }
        Some(TierUrl::Exec { program, .. }) => {
            println!(
                "5. An archive is plain tar; how one is fetched is known to {}.\n",
                program.display()
            );
            Ok(())
        }
    }
}

/// Takes the tape files out of a cartridge's image, as anybody could without Cairn, and lists one.
fn of_library(place: &Place, library: &Path) -> Result<(), DemoError> {
    println!("5. A cartridge holds plain tar: a script of thirty lines strips the tape's framing,");
    println!("   and the system's own tar opens what is left.");
    let Some(image) = largest(&library.join("cartridges"), false)? else {
        return Err(DemoError::NotDone("no cartridge was written".into()));
    };
    let script = place.root().join("tap_files.py");
    let files = place.root().join("tape-files");
    fs::write(&script, SCRIPT).map_err(io("writing tap_files.py"))?;
    fs::create_dir(&files).map_err(io("creating tape-files/"))?;
    println!(
        "   $ python3 tap_files.py {} tape-files",
        place.shown(&image)
    );
    let mut strip = Command::new("python3");
    strip.arg(&script).arg(&image).arg(&files);
    match run(strip) {
        Err(DemoError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            println!("   SKIPPED: there is no python3 on this machine\n");
            return Ok(());
        }
        done => done?,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(&files).map_err(io("listing tape-files/"))? {
        found.push(entry.map_err(io("listing tape-files/"))?.path());
    }
    found.sort();
    let Some(one) = found.first() else {
        return Err(DemoError::NotDone("no aggregate was written".into()));
    };
    list(place, one)?;
    fs::remove_dir_all(&files).map_err(io("removing tape-files/"))
}

/// An object fetched by curl, which signs as the AWS command line does.
fn of_bucket(place: &Place, bucket: &S3Place) -> Result<(), DemoError> {
    println!("5. An object is plain tar: curl fetches one, and the system's own tar opens it.");
    let Some(caller) = Caller::of(bucket) else {
        println!("   SKIPPED: curl is shown with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY\n");
        return Ok(());
    };
    let prefix = match bucket.prefix.as_str() {
        "" => "aggregates/".to_owned(),
        prefix => format!("{prefix}/aggregates/"),
    };
    let query = encoded(&prefix, false);
    let listed = place.root().join("keys.xml");
    let keys = format!("?list-type=2&max-keys=1&prefix={query}");
    if let Err(why) = caller.get(&keys, &listed)? {
        println!("   SKIPPED: {why}\n");
        return Ok(());
    }
    let text = fs::read_to_string(&listed).map_err(io("reading keys.xml"))?;
    let key = text.split_once("<Key>").and_then(|(_, rest)| {
        let (key, _) = rest.split_once("</Key>")?;
        Some(key.to_owned())
    });
    let Some(key) = key else {
        return Err(DemoError::NotDone("no object was written".into()));
    };
    let object = place.root().join("object.tar");
    println!(
        "   $ curl --aws-sigv4 aws:amz:{}:s3 -o object.tar {}/{key}",
        caller.region, caller.address
    );
    if let Err(why) = caller.get(&format!("/{}", encoded(&key, true)), &object)? {
        println!("   SKIPPED: {why}\n");
        return Ok(());
    }
    list(place, &object)?;
    fs::remove_file(&object)
        .and_then(|()| fs::remove_file(&listed))
        .map_err(io("removing object.tar"))
}

/// Who asks a bucket, as the environment says.
struct Caller {
    address: String,
    region: String,
    /// For curl's standard input: a command line can be seen by everybody.
    secrets: String,
}

impl Caller {
    fn of(bucket: &S3Place) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let quoted = |text: String| text.replace('\\', "\\\\").replace('"', "\\\"");
        let key = variable("AWS_ACCESS_KEY_ID").map(quoted)?;
        let secret = variable("AWS_SECRET_ACCESS_KEY").map(quoted)?;
        let mut secrets = format!("user = \"{key}:{secret}\"\n");
        if let Some(token) = variable("AWS_SESSION_TOKEN").map(quoted) {
            secrets.push_str(&format!("header = \"x-amz-security-token: {token}\"\n"));
        }
        let region = bucket.region.clone().or_else(|| variable("AWS_REGION"));
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = bucket.endpoint.as_ref().map(|at| at.trim_end_matches('/'));
        let address = match endpoint {
            Some(endpoint) => format!("{endpoint}/{}", bucket.bucket),
            None => format!("https://{}.s3.{region}.amazonaws.com", bucket.bucket),
        };
        Some(Self {
            address,
            region,
            secrets,
        })
    }

    /// Fetches into a file; or why not: what is shown here proves nothing about what was archived, and a curl that does
    /// not know where the bucket is (a profile does, say) is no reason to fail.
    fn get(&self, what: &str, into: &Path) -> Result<Result<(), String>, DemoError> {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--fail", "--globoff"])
            .args(["--config", "-", "--output"])
            .arg(into)
            .args(["--aws-sigv4", &format!("aws:amz:{}:s3", self.region)])
            .args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
            .arg(format!("{}{what}", self.address))
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Err(why) if why.kind() == ErrorKind::NotFound => {
                return Ok(Err("there is no curl on this machine".to_owned()));
            }
            child => child.map_err(io("starting curl"))?,
        };
        let told = child.stdin.take().map(|mut stdin| {
            let told = stdin.write_all(self.secrets.as_bytes());
            drop(stdin);
            told
        });
        let output = child.wait_with_output().map_err(io("running curl"))?;
        told.transpose().map_err(io("telling curl who asks"))?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Ok(Err(format!("{} ({})", said.trim(), output.status)))
    }
}

/// For a URL; a path keeps its slashes.
fn encoded(text: &str, is_path: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'/' if is_path => out.push('/'),
            b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn list(place: &Place, archive: &Path) -> Result<(), DemoError> {
    println!("   $ tar -tvf {}", place.shown(archive));
    let mut list = Command::new("tar");
    list.arg("-tvf").arg(archive);
    let listing = run(list)?;
    for line in listing.lines().take(4) {
        println!("   {line}");
    }
    println!(
        "   ... {} members in this archive\n",
        listing.lines().count()
    );
    Ok(())
}

/// The largest file in a directory, or also below it.
fn largest(dir: &Path, deep: bool) -> Result<Option<PathBuf>, DemoError> {
    let mut largest = None;
    let mut directories = vec![dir.to_owned()];
    while let Some(dir) = directories.pop() {
        let listing = || io(format!("listing {}", dir.display()));
        for entry in fs::read_dir(&dir).map_err(listing())? {
            let entry = entry.map_err(listing())?;
            let meta = entry.metadata().map_err(listing())?;
            if !meta.is_dir() {
                largest = largest.max(Some((meta.len(), entry.path())));
            } else if deep {
                directories.push(entry.path());
            }
        }
    }
    Ok(largest.map(|(_, path)| path))
}
