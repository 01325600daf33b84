//! The end of an instance by signals: whom a busy mount belongs to is said, and how long they have.

use crate::cli::CliError;
use cairn_fuse::{Mirror, MirrorError};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::time::{Duration, Instant};

/// How long after SIGTERM a busy mount is asked for before it goes by force.
const TERM_PATIENCE: Duration = Duration::from_secs(10);

/// What ends an instance from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Ctrl-C: somebody is there who can be asked.
    Interrupt,
    /// The system is going down, or the service is stopped: what follows is SIGKILL.
    Terminate,
}

/// How far an end by signals has come.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    signals: u32,
    /// A busy mount goes by force at this time.
    until: Option<Instant>,
}

impl Leaving {
    /// A busy mount is named. With the second signal it goes all the same; after a SIGTERM also by
    /// itself, a little later.
    pub(super) fn told(&mut self, mirror: &Mirror, signal: Signal) {
        self.signals += 1;
        let Err(why) = mirror.unmount(self.signals > 1) else {
            return;
        };
        let holders = crate::server::holders::of(mirror.mountpoint());
        let list = if holders.is_empty() {
            String::new()
        } else {
            format!(": {}", holders.join(", "))
        };
        eprintln!("cairn: {why}{list}");
        match signal {
            Signal::Interrupt => eprintln!("cairn: Ctrl-C again unmounts all the same"),
            Signal::Terminate => {
                let seconds = TERM_PATIENCE.as_secs();
                eprintln!("cairn: it is unmounted all the same in {seconds} s");
                self.until = Some(Instant::now() + TERM_PATIENCE);
            }
        }
    }

    /// Time has passed.
    ///
    /// # Errors
    /// It cannot be unmounted, not even by force: this process ends all the same.
    pub(super) fn again(&mut self, mirror: &Mirror) -> Result<(), MirrorError> {
        let Some(until) = self.until else {
            return Ok(());
        };
        let force = Instant::now() >= until;
        match mirror.unmount(force) {
            Ok(()) => self.until = None,
            Err(MirrorError::Busy { .. }) => {}
            Err(why) if force => return Err(why),
            Err(why) => tracing::debug!(%why, "tried again"),
        }
        Ok(())
    }
}

/// Hears SIGINT and SIGTERM.
pub(super) fn signals() -> Result<Receiver<Signal>, CliError> {
    let (told, heard) = bounded(16);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::system("prepare for signals", &e))?;
    std::thread::Builder::new()
        .name("cairn-signals".into())
        .spawn(move || runtime.block_on(hear(told)))
        .map_err(|e| CliError::system("start a thread", &e))?;
    Ok(heard)
}

async fn hear(told: Sender<Signal>) {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut interrupt), Ok(mut terminate)) = kinds else {
        return;
    };
    loop {
        let came = tokio::select! {
            _ = interrupt.recv() => Signal::Interrupt,
            _ = terminate.recv() => Signal::Terminate,
        };
        if let Err(crossbeam_channel::TrySendError::Disconnected(_)) = told.try_send(came) {
            return;
        }
    }
}
