//! `cairn requests`, `wait`, `cancel` and `retry`.

use super::output::{Output, table};
use super::{CliError, Session, progress};
use crate::config::units::parse_duration;
use crate::config::units::shown::{Bytes, counted, grouped, seconds};
use crate::server::wire::{GivenPath, RequestFilter, RequestView};
use clap::Args;
use std::time::Duration;

/// How many requests are asked for at once.
const PAGE: usize = 200;

/// Arguments of `requests`.
#[derive(Debug, Args)]
pub(crate) struct Requests {
    /// Show this request with its failed files; else list.
    id: Option<u64>,
    /// Also those that are finished.
    #[arg(long, conflicts_with = "id")]
    all: bool,
    /// Only those with failed files, finished or not.
    #[arg(long, conflicts_with = "id")]
    failed: bool,
    /// Those for this batch job, finished or not.
    #[arg(long, value_name = "JOBID", conflicts_with = "id")]
    job: Option<String>,
    /// At most N, newest first.
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "id")]
    limit: usize,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// The request.
    id: u64,
    /// Stop waiting after DUR (90s, 2h); the request goes on.
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Say nothing but errors.
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `cancel` and `retry`.
#[derive(Debug, Args)]
pub(crate) struct Request {
    /// The request.
    id: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Requests {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let mut client = session.client()?;
        let mut output = Output::new(self.json);
        if let Some(id) = self.id {
            show(&mut output, client.request(id)?)?;
            output.finish()?;
            return Ok(0);
        }
        let mut views: Vec<RequestView> = Vec::new();
        while views.len() < self.limit {
            let limit = PAGE.min(self.limit - views.len());
            let before = views.last().map(|view| view.request);
            let filter = RequestFilter {
                all: self.all,
                failed: self.failed,
                job: self.job.clone(),
                before,
                limit,
            };
            let page = client.requests(&filter)?;
            let more = page.len() >= limit;
            views.extend(page);
            if !more {
                break;
            }
        }
        if output.json {
            views.into_iter().try_for_each(|view| output.object(view))?;
        } else if !views.is_empty() {
            for line in table(&rows(&views), &[0, 4, 5, 6, 7]) {
                output.line(line)?;
            }
        }
        output.finish()?;
        Ok(0)
    }
}

fn rows(views: &[RequestView]) -> Vec<Vec<String>> {
    let head = [
        "ID", "VERB", "STATE", "USER", "FILES", "DONE", "FAILED", "BYTES", "CREATED", "PATH",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(views.iter().map(|view| {
        let more = if view.paths.len() > 1 { " ..." } else { "" };
        vec![
            view.request.to_string(),
            view.verb.to_string(),
            view.state.as_str().to_owned(),
            super::names::user(view.uid),
            grouped(view.files),
            grouped(view.files_done),
            grouped(view.files_failed),
            Bytes(view.bytes).to_string(),
            view.created.to_string(),
            view.paths.first().map_or("-".to_owned(), |p| {
                format!("{}{more}", super::output::harmless(p.text()))
            }),
        ]
    }));
    rows
}

fn show(output: &mut Output, view: RequestView) -> Result<(), CliError> {
    if output.json {
        return output.object(view);
    }
    output.line(format!("request   {}", view.request))?;
    output.line(format!("verb      {}", view.verb))?;
    output.line(format!("state     {}", view.state.as_str()))?;
    output.line(format!("user      {}", super::names::user(view.uid)))?;
    if let Some(job) = &view.job {
        output.line(format!("job       {job}"))?;
    }
    output.line(format!("created   {}", view.created))?;
    if let Some(finished) = view.finished {
        output.line(format!("finished  {finished}"))?;
    }
    let done = format!(
        "{} of {} done",
        grouped(view.files_done),
        grouped(view.files)
    );
    output.line(format!(
        "files     {done}, {} failed",
        grouped(view.files_failed)
    ))?;
    output.line(format!(
        "bytes     {} of {}",
        Bytes(view.bytes_done),
        Bytes(view.bytes)
    ))?;
    if let Some(eta) = view.eta_s {
        output.line(format!("left      about {}", seconds(eta)))?;
    }
    if let Some(waiting) = &view.waiting {
        output.line(format!("waits for {waiting}"))?;
    }
    if let Some(cartridges) = super::progress::cartridges(&view) {
        output.line(format!("waits for {cartridges}"))?;
    }
    for path in &view.paths {
        output.path_line("path      ", &path.bytes(), "")?;
    }
    for problem in &view.problems {
        let path = problem.path.as_ref().map_or("-", GivenPath::text);
        let path = super::output::harmless(path);
        output.line(format!(
            "failed    {path}: {} ({})",
            problem.message, problem.code
        ))?;
    }
    Ok(())
}

impl Wait {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let mut client = session.client()?;
        let mut output = Output::new(self.json);
        let code = progress::wait(
            &mut client,
            &mut output,
            self.id,
            self.timeout,
            self.quiet,
            &[],
        )?;
        output.finish()?;
        Ok(code)
    }
}

impl Request {
    pub(crate) fn cancel(&self, session: &Session) -> Result<u8, CliError> {
        let view = session.client()?.cancel(self.id)?;
        let mut output = Output::new(self.json);
        if output.json {
            output.object(view)?;
        } else {
            let done = counted(view.files_done, "file");
            let state = view.state.as_str();
            output.line(format!(
                "request {} {state}; {done} done before",
                view.request
            ))?;
        }
        output.finish()?;
        Ok(0)
    }

    pub(crate) fn retry(&self, session: &Session) -> Result<u8, CliError> {
        let accepted = session.client()?.retry(self.id)?;
        let mut output = Output::new(self.json);
        if output.json {
            output.object(accepted)?;
        } else {
            output.line(accepted.request)?;
        }
        output.finish()?;
        Ok(0)
    }
}
