//! The way to the service: one client on a small runtime of its own, and how requests are bounded.
//!
//! Invariants kept here:
//! - At most `connections` requests are under way; at most [`Service::in_flight`] bytes of parts are on
//!   their way, over all objects that are being written.
//! - Each request has an end: it is given up when nothing moves. The SDK repeats nothing; whoever must, since
//!   the bytes are gone otherwise, says so by [`Service::again`], and that is bounded, too. What a caller asks has one
//!   end ([`within`]): tries, pauses and the wait for a connection all count.
//! - A page instead of an answer (a proxy's, with status 200) is an error, whatever was asked.
//! - Callers are threads, also of another runtime: they wait on a channel, never on this runtime.

use super::failure::{self, Came, Failure, Verb};
use super::keys::Keys;
use crate::tier::TierError;
use crate::tier::s3::{Access, S3Place};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, ConfigBag, Credentials, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_http_client::tls;
use parking_lot::Mutex;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// To connect.
const CONNECT: Duration = Duration::from_secs(5);
/// A body of which nothing comes for so long.
const STALLED: Duration = Duration::from_secs(20);
/// Until an answer begins, once all was sent.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same where the service does the work of minutes before: it makes one object of many parts, or copies one.
const WORKING: Duration = Duration::from_secs(600);
/// What a caller asks is answered within so long, and what its bytes take; or it is not.
pub(super) const ASK: Duration = Duration::from_secs(40);
/// All that is tried out of a service.
pub(super) const PROBING: Duration = Duration::from_secs(300);
/// One part gets there within so long, and what its bytes take.
pub(super) const SENDING: Duration = Duration::from_secs(120);
/// An object is made, or given up, within so long.
pub(super) const MAKING: Duration = Duration::from_secs(1200);
/// So long a tier that is known is waited for when it is opened.
const GREETING: Duration = Duration::from_secs(3);
/// A way slower than this is as good as none, bytes per second.
const SLOWEST: u64 = 128 << 10;
/// Tries of one part or completion, the first included: within some 30 seconds.
pub(super) const TRIES: u32 = 8;
/// And where there is no connection to be had.
const NOWHERE_TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Part sizes that are on their way at once.
const IN_FLIGHT: u64 = 12;
/// What the budget of bytes is counted in.
const UNIT: u64 = 64 << 10;

tokio::task_local! {
    /// When all that this task asks must have ended.
    static UNTIL: Instant;
}

/// All that `work` asks ends within `span`; or sooner, if it is a part of something that does.
pub(super) async fn within<T>(span: Duration, work: impl Future<Output = T>) -> T {
    let until = Instant::now() + span;
    let outer = UNTIL.try_with(|outer| *outer);
    UNTIL
        .scope(outer.map_or(until, |outer| outer.min(until)), work)
        .await
}

/// What is left until then; `None`: there is no such end.
fn left() -> Option<Duration> {
    let until = UNTIL.try_with(|until| *until).ok()?;
    Some(until.saturating_duration_since(Instant::now()))
}

/// What so many bytes take where it is slow.
pub(super) fn carrying(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

/// How long one request may take.
fn patience(verb: Verb, bytes: u64) -> Duration {
    let begins = match verb {
        Verb::Complete | Verb::Copy => WORKING,
        Verb::Put
        | Verb::Get
        | Verb::Head
        | Verb::Delete
        | Verb::List
        | Verb::Create
        | Verb::Part
        | Verb::Abort
        | Verb::Restore
        | Verb::Uploads
        | Verb::Versioning
        | Verb::Lock => PATIENCE,
    };
    begins + carrying(bytes)
}

/// The way to a service.
pub(super) struct Service {
    runtime: Option<Runtime>,
    pub(super) client: Client,
    pub(super) place: S3Place,
    pub(super) keys: Keys,
    pub(super) label: String,
    connections: Arc<Semaphore>,
    budget: Arc<Semaphore>,
    server: Arc<Mutex<Option<String>>>,
    seed: RandomState,
    pauses: AtomicU64,
}

impl Drop for Service {
    fn drop(&mut self) {
        // The last one to let go may be a task of this very runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Service {
    /// Nothing is asked of the service yet.
    ///
    /// # Errors
    /// [`TierError::Refused`]: no runtime, or a certificate file that cannot be used.
    pub(super) fn new(
        place: &S3Place,
        label: &str,
        access: Option<Access>,
    ) -> Result<Arc<Self>, TierError> {
        let refused = |why: String| TierError::Refused {
            place: label.to_owned(),
            why,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(|error| refused(format!("no threads for it: {error}")))?;
        let http = http().map_err(refused)?;
        let server = Arc::new(Mutex::new(None));
        let config =
            runtime.block_on_elsewhere(config(place.clone(), access, http, Arc::clone(&server)));
        let config = config.ok_or_else(|| refused("its settings could not be read".to_owned()))?;
        let budget = IN_FLIGHT * place.part_size / UNIT;
        Ok(Arc::new(Self {
            runtime: Some(runtime),
            client: Client::from_conf(config),
            place: place.clone(),
            keys: Keys::new(&place.prefix),
            label: label.to_owned(),
            connections: Arc::new(Semaphore::new(usize::from(place.connections))),
            budget: Arc::new(Semaphore::new(
                usize::try_from(budget).unwrap_or(usize::MAX),
            )),
            server,
            seed: RandomState::new(),
            pauses: AtomicU64::new(0),
        }))
    }

    /// What the service calls itself in its answers, where it does.
    pub(super) fn server(&self) -> Option<String> {
        self.server.lock().clone()
    }

    /// Bytes of parts that are on their way at once.
    pub(super) fn in_flight(&self) -> u64 {
        IN_FLIGHT * self.place.part_size
    }

    /// Does `work` on the runtime, and waits for it here, no longer than `span`.
    pub(super) fn ask<T, F>(
        &self,
        step: &'static str,
        span: Duration,
        work: F,
    ) -> Result<T, TierError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, TierError>> + Send + 'static,
    {
        let begun = Instant::now();
        match self.wait(step, Box::pin(within(span, work))) {
            // It had all of its time: whoever begins anew would keep his reader for minutes.
            Err(TierError::Transient {
                tier, step, source, ..
            }) if begun.elapsed() * 10 >= span * 9 => {
                let why = source.to_string();
                Err(TierError::Unavailable { tier, step, why })
            }
            done => done,
        }
    }

    /// Begins `work`, and waits for it for a moment. `None`: it goes on, and says in the log how it ends.
    pub(super) fn greet<F>(&self, step: &'static str, work: F) -> Result<Option<()>, TierError>
    where
        F: Future<Output = Result<(), TierError>> + Send + 'static,
    {
        let away = || self.stopped(step);
        let runtime = self.runtime.as_ref().ok_or_else(away)?;
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        runtime.spawn(async move {
            let done = Box::pin(within(ASK, work)).await;
            if let Err(std::sync::mpsc::SendError(Err(error))) = tell.send(done) {
                tracing::warn!(%error, "tier is away; it is used when it is back");
            }
        });
        match told.recv_timeout(GREETING) {
            Ok(done) => done.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(away()),
        }
    }

    fn stopped(&self, step: &'static str) -> TierError {
        TierError::Unavailable {
            tier: self.label.clone(),
            step,
            why: "its threads are gone: the program is stopping".to_owned(),
        }
    }

    /// Does `work` on the runtime, and waits for it here. It has ends of its own.
    pub(super) fn wait<T, F>(&self, step: &'static str, work: F) -> Result<T, TierError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, TierError>> + Send + 'static,
    {
        let away = || self.stopped(step);
        let runtime = self.runtime.as_ref().ok_or_else(away)?;
        runtime.block_on_elsewhere(work).ok_or_else(away)?
    }

    /// Where tasks of this service run.
    pub(super) fn handle(&self) -> Option<&tokio::runtime::Handle> {
        self.runtime.as_ref().map(Runtime::handle)
    }

    /// One request, which moves about `bytes`. The wait for a connection counts.
    pub(super) async fn once<T>(
        &self,
        verb: Verb,
        bytes: u64,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let late = |_| Failure::late(verb);
        let span = || {
            let patience = patience(verb, bytes);
            left().map_or(patience, |left| left.min(patience))
        };
        let permit = tokio::time::timeout(left().unwrap_or(WORKING), self.connections.acquire());
        let gone = |_| Failure::broken(verb, "the program is stopping");
        let _permit = permit.await.map_err(late)?.map_err(gone)?;
        // On the heap: these futures are deep.
        let request = Box::pin(failure::watched(request));
        tokio::time::timeout(span(), request).await.map_err(late)?
    }

    /// The same, repeated as by [`Service::again`].
    pub(super) async fn often<T, F>(
        &self,
        verb: Verb,
        bytes: u64,
        request: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let span = ASK + carrying(bytes);
        self.again_within(span, || self.once(verb, bytes, request()))
            .await
    }

    /// Does it a bounded number of times and within a bounded time, while that may help, with growing pauses and
    /// jitter.
    pub(super) async fn again<T, F>(&self, run: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.again_within(ASK, run).await
    }

    /// The same, where it may take longer.
    pub(super) async fn again_within<T, F>(
        &self,
        span: Duration,
        run: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let work = async {
            let mut tried = 1;
            loop {
                match run().await {
                    Err(failure)
                        if failure.passes() && tried < most(&failure) && may_wait(tried) =>
                    {
                        let (verb, why) = (failure.verb.as_str(), &failure.message);
                        tracing::debug!(tier = self.label, verb, tried, why, "trying again");
                        self.pause(tried).await;
                        tried += 1;
                    }
                    other => return other,
                }
            }
        };
        Box::pin(within(span, work)).await
    }

    /// Between half and all of the doubled pause.
    pub(super) async fn pause(&self, tried: u32) {
        let doubled = doubled(tried);
        let dice = self
            .seed
            .hash_one(self.pauses.fetch_add(1, Ordering::Relaxed))
            % 1024;
        let half = doubled / 2;
        let jitter = half.saturating_mul(u32::try_from(dice).unwrap_or(0)) / 1024;
        tokio::time::sleep(half + jitter).await;
    }

    /// Room for a part on its way; given back when the permit is dropped.
    pub(super) async fn room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = bytes.min(self.in_flight()).div_ceil(UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        Arc::clone(&self.budget)
            .acquire_many_owned(units)
            .await
            .ok()
    }
}

/// The pause after so many tries, without jitter.
fn doubled(tried: u32) -> Duration {
    let times = 1_u32.checked_shl(tried.saturating_sub(1));
    FIRST_PAUSE
        .saturating_mul(times.unwrap_or(u32::MAX))
        .min(LONGEST_PAUSE)
}

/// Is there time for a pause, and for another try behind it?
pub(super) fn may_wait(tried: u32) -> bool {
    left().is_none_or(|left| left > doubled(tried))
}

/// A service to which there is no way is waited for by the scheduler, not here.
fn most(failure: &Failure) -> u32 {
    if failure.came == Came::Nowhere {
        NOWHERE_TRIES
    } else {
        TRIES
    }
}

trait Elsewhere {
    /// Runs on the runtime's threads; `None` if those are gone.
    fn block_on_elsewhere<T, F>(&self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static;
}

impl Elsewhere for Runtime {
    fn block_on_elsewhere<T, F>(&self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        self.spawn(async move {
            // Whoever waited may be gone with its thread.
            let _ = tell.send(work.await);
        });
        told.recv().ok()
    }
}

async fn config(
    place: S3Place,
    access: Option<Access>,
    http: SharedHttpClient,
    server: Arc<Mutex<Option<String>>>,
) -> aws_sdk_s3::Config {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .grace_period(STALLED)
                .build(),
        );
    if let Some(region) = place.region.clone() {
        loader = loader.region(Region::new(region));
    }
    if let Some(Access { key, secret }) = access {
        loader = loader.credentials_provider(Credentials::new(key, secret, None, None, "given"));
    }
    let shared = loader.load().await;
    let mut builder = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(place.has_path_style())
        // Ours are CRC32C of exactly what was meant, and reads are checked where they are used.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .interceptor(Answers { server });
    if let Some(endpoint) = &place.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    if shared.region().is_none() {
        // Another service than Amazon's wants one for its signatures, and takes any.
        builder = builder.region(Region::new("us-east-1"));
    }
    builder.build()
}

/// TLS by rustls with ring, and the system's certificates or those of `AWS_CA_BUNDLE`.
fn http() -> Result<SharedHttpClient, String> {
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    let builder = aws_smithy_http_client::Builder::new().tls_provider(provider);
    let Some(path) = std::env::var_os("AWS_CA_BUNDLE").filter(|p| !p.is_empty()) else {
        return Ok(builder.build_https());
    };
    let shown = path.to_string_lossy().into_owned();
    let pem = std::fs::read(&path).map_err(|e| format!("AWS_CA_BUNDLE, {shown}: {e}"))?;
    let context = tls::TlsContext::builder()
        .with_trust_store(tls::TrustStore::empty().with_pem_certificate(pem))
        .build()
        .map_err(|e| format!("AWS_CA_BUNDLE, {shown}: {e}"))?;
    Ok(builder.tls_context(context).build_https())
}

/// Looks at every answer before anybody believes it.
#[derive(Debug)]
struct Answers {
    server: Arc<Mutex<Option<String>>>,
}

impl Intercept for Answers {
    fn name(&self) -> &'static str {
        "answers"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        failure::goes();
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response();
        let header = |name: &str| answer.headers().get(name).unwrap_or_default();
        let kind = header("content-type").to_ascii_lowercase();
        // An answer without a body may say that kind of it, and some do.
        let status = answer.status().as_u16();
        let has_body = header("content-length") != "0" && !matches!(status, 204 | 304);
        if kind.starts_with("text/html") && has_body {
            return Err(format!("a web page instead of an answer, status {status}").into());
        }
        let name = header("server");
        if !name.is_empty() {
            let mut server = self.server.lock();
            if server.as_deref() != Some(name) {
                *server = Some(name.chars().take(100).collect());
            }
        }
        Ok(())
    }
}
