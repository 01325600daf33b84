//! Questions to somebody else's HTTP service (slurmrestd, behind a proxy or not): one connection a question, on a
//! runtime of its own; calls block.
//!
//! Invariants:
//! - A secret header leaves this host under TLS alone: without it only loopback is called.
//! - What is secret is in no error, and in no `Debug`.

use super::Trust;
use crate::client::ClientError;
use crate::error::Failure;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

pub use hyper::Method;

/// How long a question may take in all.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer that is taken, bytes.
const LONGEST: usize = 64 << 20;

/// A service.
#[derive(Clone)]
pub struct Web {
    host: String,
    port: u16,
    /// What all paths begin with; no slash at its end.
    prefix: String,
    tls: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.host, self.port, self.prefix)
    }
}

fn usage(message: String, hint: &str) -> ClientError {
    ClientError::Refused {
        failure: Failure::Usage,
        message,
        hint: Some(hint.to_owned()),
    }
}

impl Web {
    /// The service at `http://HOST[:PORT][/PREFIX]` or `https://...`.
    ///
    /// # Errors
    /// It is no such URL, or the authorities' file cannot be read.
    pub fn new(url: &str, trust: &Trust) -> Result<Self, ClientError> {
        let wrong = || usage(format!("{url:?} is no URL"), "write https://HOST[:PORT]");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let (scheme, authority) = (uri.scheme_str(), uri.authority().ok_or_else(wrong)?);
        let secured = match scheme {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        // A password in a URL is seen by everybody who lists processes.
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong());
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        if host.is_empty() || ServerName::try_from(host).is_err() {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if secured { 443 } else { 80 }),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            tls: secured.then(|| trust.config()).transpose()?,
        })
    }

    /// Host, port and prefix.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{self:?}")
    }

    /// One question: the answer's status and its bytes.
    ///
    /// # Errors
    /// Nobody is there, it is not whom [`Trust`] believes, or the connection broke.
    pub fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<(u16, Bytes), ClientError> {
        let runtime = crate::client::runtime()?;
        let request = self.request(method, path, headers, body)?;
        runtime.block_on(async {
            let asked = timeout(PATIENCE, self.asked(request)).await;
            asked.map_err(|_| self.away(io::ErrorKind::TimedOut.into()))?
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let host = match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        };
        let mut builder = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header("host", host);
        if body.is_some() {
            builder = builder.header("content-type", "application/json");
        }
        for (name, value) in headers {
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| usage(format!("what {name} is to be is no line of text"), ""))?;
            value.set_sensitive(true);
            builder = builder.header(HeaderName::from_static(name), value);
        }
        builder
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| usage(format!("{path:?}: {e}"), "write https://HOST[:PORT]"))
    }

    async fn asked(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), ClientError> {
        let stream = self.connect().await?;
        match &self.tls {
            None => self.talk(stream, request).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())
                    .map_err(|e| self.away(io::Error::other(e)))?;
                let secured = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
                self.talk(secured.await.map_err(|e| self.away(e))?, request)
                    .await
            }
        }
    }

    async fn connect(&self) -> Result<TcpStream, ClientError> {
        let found = lookup_host((self.host.as_str(), self.port)).await;
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in found.map_err(|e| self.away(e))? {
            if self.tls.is_none() && !is_here(address.ip()) {
                let message = format!(
                    "http://{}: the token would be readable on its way",
                    self.host
                );
                return Err(usage(
                    message,
                    "use https:// (a proxy before slurmrestd); http:// is for this host alone",
                ));
            }
            match TcpStream::connect(SocketAddr::new(address.ip(), self.port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(self.away(last))
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<(u16, Bytes), ClientError> {
        let (mut sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::broken)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the service ended");
            }
        });
        let response: Response<Incoming> = sender
            .send_request(request)
            .await
            .map_err(ClientError::broken)?;
        let status = response.status().as_u16();
        let (mut body, mut whole) = (response.into_body(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(ClientError::broken)?.into_data() {
                whole.extend_from_slice(&data);
            }
            if whole.len() > LONGEST {
                return Err(ClientError::not_understood("an answer without end"));
            }
        }
        Ok((status, whole.freeze()))
    }

    fn away(&self, source: io::Error) -> ClientError {
        ClientError::Away {
            server: self.place(),
            source,
        }
    }
}

/// What goes there does not leave this host.
fn is_here(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_by_a_url() {
        let place = |url: &str| Web::new(url, &Trust::System).unwrap().place();
        assert_eq!(place("http://localhost:6820"), "localhost:6820");
        assert_eq!(place("https://s.example.org/api/"), "s.example.org:443/api");
        assert_eq!(place("http://[::1]:1/"), "::1:1");
        for wrong in [
            "localhost:6820",
            "ftp://x",
            "http://a:b@x",
            "/x",
            "http://",
            "http://x/?y=1",
        ] {
            let said = Web::new(wrong, &Trust::System).unwrap_err().to_string();
            assert!(said.contains("is no URL"), "{wrong}: {said}");
        }
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear_to_another_host() {
        let web = Web::new("http://192.0.2.1:1", &Trust::System).unwrap();
        let secret = [("x-slurm-user-token", "secret")];
        let error = web.call(Method::GET, "/", &secret, None).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("readable on its way"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
}
