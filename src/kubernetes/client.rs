//! The one way to build a client.
//!
//! In: where the API server is (kubeconfig or service account) and [`Limits`]. Out: a [`kube::Client`] whose every
//! request has a time limit (watches excepted), waits its turn among a bounded number, is counted by verb, resource
//! and code, and is **not** retried behind the caller's back: waiting belongs to the reconcile's own back-off, where
//! it holds no slot and can be seen.
//!
//! Called once at start. Tests call [`over`] with a fake API server and so run through the same layers.

use std::{
    pin::Pin,
    sync::{Arc, Once},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, header::USER_AGENT};
use http_body_util::{BodyExt as _, Either, Full};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tokio::sync::Semaphore;
use tower::{BoxError, Layer, Service};

use crate::telemetry::metrics::{Metrics, RequestLabels, RequestVerb};

/// Bounds on what one process asks of the API server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time limit of a request, reading its answer included; watches are spared.
    pub request_time: Duration,
    /// Requests in flight at once, watches not counted.
    pub concurrency: usize,
}

impl Default for Limits {
    /// 10 s: far beyond any healthy answer (the API server's own objective is 1 s) and short enough that a dead
    /// connection costs one reconcile, not the lease (which expires after 15 s without a renewal).
    ///
    /// 64: an API server admits 600 requests at a time by default and shares them among all its clients; a tenth
    /// keeps two cores of it busy without crowding others out.
    fn default() -> Self {
        Self { request_time: Duration::from_secs(10), concurrency: 64 }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a service account was usable.
    #[error("cannot find out where the API server is; set KUBECONFIG or run inside a cluster")]
    Config(#[source] kube::config::InferConfigError),
    /// The configuration cannot be turned into a client.
    #[error("cannot build a client from the configuration of the API server")]
    Build(#[source] kube::Error),
}

/// Makes `aws-lc-rs` the process's TLS provider.
///
/// Two providers in one process make the first TLS handshake panic, so this is the only place that names one.
pub fn install_tls_provider() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // The only error is that a provider is installed already, which is what is wanted.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

/// Builds a client for the cluster that `KUBECONFIG` names, or else the one this process runs in.
pub async fn connect(limits: Limits, metrics: Metrics) -> Result<Client, ConnectError> {
    install_tls_provider();
    let mut config = Config::infer().await.map_err(ConnectError::Config)?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    let layer = Bounding { limits, metrics };
    Ok(ClientBuilder::try_from(config).map_err(ConnectError::Build)?.with_layer(&layer).build())
}

/// Puts the layers of this module over any service that answers like an API server.
pub fn over<S, B>(service: S, namespace: impl Into<String>, limits: Limits, metrics: Metrics) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(Bounding { limits, metrics }.layer(service), namespace)
}

struct Bounding {
    limits: Limits,
    metrics: Metrics,
}

impl<S> Layer<S> for Bounding {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded {
            inner,
            turns: Arc::new(Semaphore::new(self.limits.concurrency.max(1))),
            request_time: self.limits.request_time,
            metrics: self.metrics.clone(),
        }
    }
}

/// A request had no complete answer in time. Whether it was carried out is not known.
#[derive(Debug, thiserror::Error)]
#[error("no complete answer within {0:?}")]
struct TimedOut(Duration);

struct Bounded<S> {
    inner: S,
    turns: Arc<Semaphore>,
    request_time: Duration,
    metrics: Metrics,
}

impl<S, B> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Either<Full<bytes::Bytes>, B>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request
            .headers_mut()
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!("trainyard/", env!("CARGO_PKG_VERSION"))));
        let verb = verb_of(&request);
        let resource = resource_of(request.uri().path());
        // A future of a tower service does nothing until it is polled, so the request starts when its turn has come.
        let answer = self.inner.call(request);
        let (turns, limit, metrics) = (Arc::clone(&self.turns), self.request_time, self.metrics.clone());
        Box::pin(async move {
            let (result, code) = if verb == RequestVerb::Watch {
                let result = answer.await.map_err(Into::into);
                let code = result.as_ref().map_or_else(|_| "error".to_owned(), |response| code_of(response));
                (result.map(|response| response.map(Either::Right)), code)
            } else {
                let _turn = turns.acquire().await.map_err(BoxError::from)?;
                match tokio::time::timeout(limit, whole(answer)).await {
                    Ok(Ok(response)) => {
                        let code = code_of(&response);
                        (Ok(response.map(|bytes| Either::Left(Full::new(bytes)))), code)
                    }
                    Ok(Err(error)) => (Err(error), "error".to_owned()),
                    Err(_) => (Err(TimedOut(limit).into()), "timeout".to_owned()),
                }
            };
            metrics.count_request(&RequestLabels { verb, resource, code });
            result
        })
    }
}

/// The answer with its body read to the end, so that the time limit covers both.
async fn whole<B, E>(
    answer: impl Future<Output = Result<Response<B>, E>>,
) -> Result<Response<bytes::Bytes>, BoxError>
where
    E: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: Into<BoxError>,
{
    let (parts, body) = answer.await.map_err(Into::into)?.into_parts();
    let bytes = body.collect().await.map_err(Into::into)?.to_bytes();
    Ok(Response::from_parts(parts, bytes))
}

fn code_of<B>(response: &Response<B>) -> String {
    response.status().as_str().to_owned()
}

fn verb_of<B>(request: &Request<B>) -> RequestVerb {
    match *request.method() {
        Method::GET => {
            let query = request.uri().query().unwrap_or_default();
            if query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1") {
                RequestVerb::Watch
            } else if names_an_object(request.uri().path()) {
                RequestVerb::Get
            } else {
                RequestVerb::List
            }
        }
        Method::POST => RequestVerb::Create,
        Method::PUT => RequestVerb::Update,
        Method::PATCH => RequestVerb::Patch,
        Method::DELETE => RequestVerb::Delete,
        _ => RequestVerb::Other,
    }
}

/// The segments that follow group, version and namespace: type, name, subresource.
fn type_and_name(path: &str) -> Vec<&str> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let skipped = match segments.next() {
        Some("api") => 1,
        Some("apis") => 2,
        _ => return Vec::new(),
    };
    let rest: Vec<&str> = segments.skip(skipped).collect();
    match rest.as_slice() {
        // A namespace's own subresources are not types inside it.
        ["namespaces", _, "status" | "finalize"] => rest,
        ["namespaces", _, inside @ ..] if !inside.is_empty() => inside.to_vec(),
        _ => rest,
    }
}

fn names_an_object(path: &str) -> bool {
    type_and_name(path).len() > 1
}

fn resource_of(path: &str) -> String {
    match type_and_name(path).as_slice() {
        [] => "other".to_owned(),
        [plural] | [plural, _] => (*plural).to_owned(),
        [plural, _, subresource, ..] => format!("{plural}/{subresource}"),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
