//! Answers of many lines (NDJSON): one tagged object a line, the last one `cairn.end.v1`, so that
//! a reader knows a whole answer from one that was cut off.

use super::listen::STALL;
use super::wire::{End, ErrorBody, Schema, Tagged};
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Lines that may wait for a slow reader.
const QUEUE: usize = 256;

/// The writing end of an answer.
#[derive(Debug)]
pub(super) struct Lines {
    to: mpsc::Sender<Bytes>,
    lines: u64,
}

struct LineBody(mpsc::Receiver<Bytes>);

impl hyper::body::Body for LineBody {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|line| line.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A new answer: its writing end and the response.
pub(super) fn answer() -> (Lines, Response) {
    let (to, from) = mpsc::channel(QUEUE);
    let body = Body::new(LineBody(from));
    let response = ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response();
    (Lines { to, lines: 0 }, response)
}

impl Lines {
    /// Sends one line; `false`: the reader is gone, or stalls.
    pub(crate) async fn send<T: Schema + Serialize>(&mut self, value: T) -> bool {
        let Ok(mut line) = serde_json::to_vec(&Tagged::from(value)) else {
            return false;
        };
        line.push(b'\n');
        self.lines += 1;
        self.to.send_timeout(line.into(), STALL).await.is_ok()
    }

    /// As [`Lines::send`], from a thread that may block.
    pub(super) fn send_blocking<T: Schema + Serialize>(&mut self, value: T) -> bool {
        tokio::runtime::Handle::current().block_on(self.send(value))
    }

    /// Says that the answer is whole.
    pub(super) async fn end(mut self) {
        let lines = self.lines;
        self.send(End { lines }).await;
    }

    /// Says why the answer breaks off.
    pub(super) async fn break_off(mut self, error: ErrorBody) {
        self.send(error).await;
    }

    /// Returns when the reader has gone.
    pub(super) async fn closed(&self) {
        self.to.closed().await;
    }
}
