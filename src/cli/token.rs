//! `cairn token`: who may come through the remote door, and as whom.

use super::output::{Output, table};
use super::{CliError, Session, names, sys};
use crate::config::units::parse_duration;
use crate::error::Failure;
use crate::server::remote::tokens::{Token as Kept, TokenError, Tokens};
use crate::server::remote::{CertificateError, Identity};
use crate::server::wire::{TokenView, When};
use crate::tier::mover::check_name;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `token`.
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Let a user, or a mover, in from other hosts; prints what they need, once
    #[command(
        after_help = "Example: cairn token issue --user alice --for 90d --label laptop /srv/data"
    )]
    Issue(Issue),
    /// List tokens
    #[command(after_help = "Example: cairn token list /srv/data")]
    List(List),
    /// Take tokens back
    #[command(after_help = "Example: cairn token revoke 1f0c3a52 --mount /srv/data")]
    Revoke(Revoke),
}

#[derive(Debug, Args)]
struct Issue {
    /// As whom the bearer acts: a name or a number.
    #[arg(long, value_name = "USER", required_unless_present = "mover")]
    user: Option<String>,
    /// For `cairn mover --join`: the mover that keeps tier mover:NAME.
    #[arg(long, value_name = "NAME", conflicts_with = "user")]
    mover: Option<String>,
    /// Void after DUR (default: never).
    #[arg(long = "for", value_name = "DUR", value_parser = parse_duration)]
    lasts: Option<Duration>,
    /// What it is for.
    #[arg(long)]
    label: Option<String>,
    /// The mount; without it the one at hand.
    mount: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct List {
    /// The mount; without it the one at hand.
    mount: Option<PathBuf>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Revoke {
    /// The tokens' names: the first eight digits of each.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// The mount; without it the one at hand.
    #[arg(long)]
    mount: Option<PathBuf>,
}

/// The file in the state directory that says which certificate the door shows.
pub(super) const SERVED: &str = "remote.fingerprint";

/// The state directory of the instance: tokens are in it, whoever may write there may let people in.
pub(super) fn state_of(session: &Session, mount: Option<&Path>) -> Result<PathBuf, CliError> {
    let client = session.client_near(mount)?;
    let state = client.socket().parent().and_then(Path::parent);
    let state = state
        .ok_or_else(|| CliError::new(Failure::Internal, "the socket lies in no state directory"))?;
    Ok(state.to_owned())
}

fn failed(error: TokenError) -> CliError {
    match &error {
        TokenError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            CliError::new(Failure::NotPermitted, error)
                .with_hint("whoever runs the instance issues and revokes tokens")
        }
        TokenError::Unknown(_) => {
            CliError::new(Failure::NotFound, error).with_hint("cairn token list")
        }
        _ => CliError::new(Failure::Internal, error),
    }
}

impl Token {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        match &self.command {
            TokenCommand::Issue(args) => args.run(session),
            TokenCommand::List(args) => args.run(session),
            TokenCommand::Revoke(args) => args.run(session),
        }
    }
}

/// For people: whom it lets in.
fn bearer(token: &Kept) -> String {
    match &token.mover {
        Some(name) => format!("mover:{name}"),
        None => names::user(token.uid),
    }
}

fn view(token: &Kept, text: Option<String>, fingerprint: Option<String>) -> TokenView {
    let when = When::from_unix;
    TokenView {
        id: token.id.clone(),
        uid: token.uid,
        user: bearer(token),
        label: token.label.clone(),
        issued: when(token.issued),
        expires: token.expires.map(when),
        token: text,
        fingerprint,
    }
}

/// The fingerprint of the certificate that the door showed last; of the instance's own, if there was none yet.
fn served(state: &Path) -> Result<String, CertificateError> {
    match std::fs::read_to_string(state.join(SERVED)) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => Ok(Identity::own(state)?.fingerprint),
    }
}

/// The user of that name or number, who must be one here.
fn user(text: &str) -> Result<u32, CliError> {
    let uid = match text.parse() {
        Ok(uid) => uid,
        Err(_) => sys::user_id(text)
            .ok_or_else(|| CliError::new(Failure::NotFound, format!("no user {text}")))?,
    };
    if sys::account(uid).is_none() {
        let why = format!("user {uid} has no account on this host");
        return Err(CliError::new(Failure::NotFound, why)
            .with_hint("its agent would have no groups to run with"));
    }
    let mine = rustix::process::geteuid();
    if !mine.is_root() && mine.as_raw() != uid {
        let why = "who runs the instance as a user lets in that user alone";
        return Err(CliError::new(Failure::NotPermitted, why));
    }
    Ok(uid)
}

impl Issue {
    fn run(&self, session: &Session) -> Result<u8, CliError> {
        if let Some(name) = &self.mover {
            check_name(name).map_err(CliError::usage)?;
        }
        let uid = self.user.as_deref().map(user).transpose()?;
        let state = state_of(session, self.mount.as_deref())?;
        let tokens = Tokens::of(&state);
        let (label, lasts) = (self.label.clone(), self.lasts);
        let issued = match (uid, &self.mover) {
            (Some(uid), _) => tokens.issue(uid, label, lasts),
            (None, Some(name)) => tokens.issue_mover(name, label, lasts),
            (None, None) => return Err(CliError::usage("for whom? --user or --mover")),
        };
        let (token, text) = issued.map_err(failed)?;
        let own = served(&state).map_err(|why| CliError::new(Failure::Internal, why))?;
        let mut output = Output::new(self.json);
        if self.json {
            output.object(view(&token, Some(text), Some(own)))?;
        } else {
            output.line(format!("CAIRN_TOKEN={text}"))?;
            output.line(format!("CAIRN_FINGERPRINT={}", own))?;
            eprintln!(
                "cairn: token {} lets its bearer in as {}; it is not shown again",
                token.id,
                bearer(&token)
            );
            eprintln!(
                "hint: with a certificate of the site's own, callers need no CAIRN_FINGERPRINT"
            );
        }
        output.finish()?;
        Ok(0)
    }
}

impl List {
    fn run(&self, session: &Session) -> Result<u8, CliError> {
        let tokens = Tokens::of(&state_of(session, self.mount.as_deref())?)
            .list()
            .map_err(failed)?;
        let mut output = Output::new(self.json);
        if self.json {
            tokens
                .iter()
                .try_for_each(|token| output.object(view(token, None, None)))?;
        } else {
            let mut rows = vec![
                ["ID", "USER", "ISSUED", "EXPIRES", "LABEL"]
                    .map(str::to_owned)
                    .to_vec(),
            ];
            rows.extend(tokens.iter().map(|token| {
                let view = view(token, None, None);
                let expires = view.expires.map_or("never".to_owned(), |at| at.to_string());
                vec![
                    view.id,
                    view.user,
                    view.issued.to_string(),
                    expires,
                    view.label.unwrap_or_default(),
                ]
            }));
            table(&rows, &[])
                .iter()
                .try_for_each(|line| output.line(super::output::harmless(line)))?;
        }
        output.finish()?;
        Ok(0)
    }
}

impl Revoke {
    fn run(&self, session: &Session) -> Result<u8, CliError> {
        let tokens = Tokens::of(&state_of(session, self.mount.as_deref())?);
        for id in &self.ids {
            let gone = tokens.revoke(id).map_err(failed)?;
            eprintln!("cairn: token {} of {} is void", gone.id, bearer(&gone));
        }
        Ok(0)
    }
}
