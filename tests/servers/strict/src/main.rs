//! s3s-fs as a program for tests: its library behind a listener. It looks at every signature, and at the checksums of
//! whole objects. Called as s3s-fs itself is, and built in two thirds of its time: without its parser of options and its
//! log.
//!
//!     cairn-test-s3s --access-key KEY --secret-key SECRET --host ADDRESS --port PORT DIRECTORY

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::error::Error;
use std::net::IpAddr;
use std::path::PathBuf;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

#[derive(Default)]
struct Call {
    key: String,
    secret: String,
    host: String,
    port: String,
    directory: PathBuf,
}

fn call() -> Result<Option<Call>, String> {
    let mut call = Call::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let field = match word.as_str() {
            "--help" => return Ok(None),
            "--access-key" => &mut call.key,
            "--secret-key" => &mut call.secret,
            "--host" => &mut call.host,
            "--port" => &mut call.port,
            _ if word.starts_with('-') => return Err(format!("{word} is not known")),
            _ => {
                call.directory = word.into();
                continue;
            }
        };
        *field = words.next().ok_or(format!("{word} wants a value"))?;
    }
    if call.key.is_empty() || call.secret.is_empty() {
        return Err("it serves nobody without --access-key and --secret-key".into());
    }
    Ok(Some(call))
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(call) = call()? else {
        println!(
            "usage: cairn-test-s3s --access-key KEY --secret-key SECRET --host ADDRESS --port PORT DIRECTORY"
        );
        return Ok(());
    };
    let at: (IpAddr, u16) = (call.host.parse()?, call.port.parse()?);
    let files = s3s_fs::FileSystem::new(&call.directory);
    let files = files.map_err(|e| format!("{}: {e:?}", call.directory.display()))?;
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(call.key, call.secret));
    let service = service.build();
    let threads = Builder::new_multi_thread().enable_all().build()?;
    threads.block_on(async { serve(&TcpListener::bind(at).await?, service).await })
}

async fn serve(listener: &TcpListener, service: S3Service) -> Result<(), Box<dyn Error>> {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                eprintln!("nobody is let in: {e}");
                continue;
            }
        };
        let service = service.clone();
        tokio::spawn(async move {
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(e) = serving.await {
                eprintln!("a connection broke off: {e}");
            }
        });
    }
}
