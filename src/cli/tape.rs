//! `cairn tape`: cartridges and drives of a tape library; what lies on them, and what is done with
//! them in the course of their lives.

mod direct;
mod list;
mod map;
mod run;
mod show;
mod svg;

use super::output::Output;
use super::{CliError, Session, outcome};
use crate::server::wire::{TapeAct, TapeDone, TapeOrder};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Arguments of `tape`.
#[derive(Debug, Args)]
pub(crate) struct Tape {
    /// A tier's name at the running instance, or the URL or directory of a library that nothing uses.
    #[arg(long, value_name = "TIER", global = true)]
    tier: Option<String>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List cartridges and drives.
    #[command(after_help = "Example: cairn tape list
         cairn tape list --tier tape:/mnt/library")]
    List {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Show what lies on a cartridge.
    #[command(after_help = "Example: cairn tape show BAA001L8 --map")]
    Show(show::Show),
    /// Add new, empty cartridges. What has data is never labelled.
    #[command(after_help = "Example: cairn tape label --count 5")]
    Label {
        /// Their barcodes; else the next ones.
        barcodes: Vec<String>,
        /// How many, if none is named.
        #[arg(short = 'n', long, value_name = "N", conflicts_with = "barcodes")]
        count: Option<u32>,
        #[command(flatten)]
        say: Say,
    },
    /// Use a cartridge or drive no more: a cartridge is read until it is repacked, and never written.
    #[command(after_help = "Example: cairn tape retire BAA001L8
         cairn tape retire drive 2")]
    Retire {
        /// A barcode, or `drive` and a number.
        #[arg(required = true, num_args = 1..=2, value_name = "BARCODE|drive N")]
        what: Vec<String>,
        /// Use it again, and forget why it was not.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        say: Say,
    },
    /// Read a whole cartridge once and say what is bad on it. Interrupted, an instance goes on.
    #[command(after_help = "Example: cairn tape verify BAA001L8")]
    Verify(run::Run),
    /// Copy what is needed of a cartridge to others, so that it can be used again. Interrupted, it
    /// goes on.
    #[command(after_help = "Example: cairn tape repack BAA001L8")]
    Repack(run::Run),
    /// Take a cartridge out of the library: its image is moved.
    #[command(after_help = "Example: cairn tape export BAA001L8 --to /mnt/vault")]
    Export {
        /// Its barcode.
        barcode: String,
        /// Where to; a directory on the library's filesystem. Else the library's own place.
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        #[command(flatten)]
        say: Say,
    },
    /// Take cartridges into the library: exported ones, or others.
    #[command(after_help = "Example: cairn tape import BAA001L8
         cairn tape import /mnt/vault/*.tap")]
    Import {
        /// Barcodes of exported ones, or paths of images (on the library's filesystem).
        #[arg(required = true, value_name = "BARCODE|PATH")]
        what: Vec<String>,
        /// Also those that another tier wrote: they are read, and written when nothing on them is
        /// needed.
        #[arg(long)]
        take: bool,
        #[command(flatten)]
        say: Say,
    },
}

/// How to say what was done.
#[derive(Debug, Args)]
struct Say {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Tape {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let make = matches!(self.what, What::Import { .. });
        let at = direct::At::new(session, self.tier.as_deref(), make)?;
        match &self.what {
            What::List { json } => list::list(&at, *json),
            What::Show(args) => args.run(&at),
            What::Verify(args) => args.run(&at, "verify"),
            What::Repack(args) => args.run(&at, "repack"),
            What::Label {
                barcodes,
                count,
                say,
            } => {
                let act = TapeAct::Label {
                    barcodes: barcodes.clone(),
                    count: count.unwrap_or(1),
                };
                say.all(&at, vec![act])
            }
            What::Retire { what, undo, say } => {
                let act = retire(what, *undo)?;
                say.all(&at, vec![act])
            }
            What::Export { barcode, to, say } => {
                let to = to.as_ref().map(absolute).transpose()?;
                let barcode = barcode.clone();
                say.all(&at, vec![TapeAct::Export { barcode, to }])
            }
            What::Import { what, take, say } => {
                let act = |what: &String| {
                    let what = match what.contains(['/', '.']) {
                        true => absolute(&PathBuf::from(what))?,
                        false => what.clone(),
                    };
                    Ok(TapeAct::Import { what, take: *take })
                };
                let acts = what.iter().map(act).collect::<Result<_, CliError>>()?;
                say.all(&at, acts)
            }
        }
    }
}

/// The path as another process sees it.
fn absolute(path: &PathBuf) -> Result<String, CliError> {
    let path = std::path::absolute(path)?;
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| CliError::usage(format!("{}: its name is no UTF-8", path.display())))
}

fn retire(what: &[String], undo: bool) -> Result<TapeAct, CliError> {
    let (barcode, drive) = match what {
        [drive, number] if drive == "drive" => {
            let number = number
                .parse()
                .map_err(|_| CliError::usage(format!("{number:?} is no number of a drive")))?;
            (None, Some(number))
        }
        [barcode] if barcode != "drive" => (Some(barcode.clone()), None),
        _ => return Err(CliError::usage("name a barcode, or drive and its number")),
    };
    Ok(TapeAct::Retire {
        barcode,
        drive,
        undo,
    })
}

impl Say {
    /// Does one after the other, as far as they can be done.
    fn all(&self, at: &direct::At<'_>, acts: Vec<TapeAct>) -> Result<u8, CliError> {
        let mut all = TapeDone::default();
        let mut output = Output::new(self.json);
        let (mut failed, last) = (None, acts.len());
        for act in acts {
            match at.order(act) {
                Ok(done) => {
                    for line in &done.done {
                        if !self.json {
                            output.line(line)?;
                        }
                    }
                    all.tier = done.tier;
                    all.done.extend(done.done);
                }
                // The others may be done all the same.
                Err(why) if last > 1 => {
                    why.report();
                    failed = Some(why);
                }
                Err(why) => return Err(why),
            }
        }
        if self.json {
            output.object(all)?;
        }
        output.finish()?;
        Ok(failed.map_or(outcome::OK, |_| 1))
    }
}

/// An order to the library that is meant.
fn order_of(tier: Option<&str>, act: TapeAct) -> TapeOrder {
    TapeOrder {
        tier: tier.map(str::to_owned),
        act,
    }
}
