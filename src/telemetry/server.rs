//! `/livez`, `/readyz` and `/metrics` over HTTP.
//!
//! * `/livez`: 200 for as long as the process can answer. What is beyond mending ends the process by itself.
//! * `/readyz`: 200 when every gate of [`Readiness`] is open; otherwise 503 with what is waited for, one per line.
//! * `/metrics`: all families of [`Metrics`] as `OpenMetrics` text.
//!
//! No object's content is shown, so no authentication is asked for.

use std::net::SocketAddr;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{metrics::Metrics, readiness::Readiness};

/// Why there are no health endpoints.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for health and metrics; is it taken? choose another with --listen")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Serving has ended.
    #[error("cannot serve health and metrics")]
    Serve(#[source] std::io::Error),
}

/// What the endpoints show.
#[derive(Clone, Debug)]
pub struct Shown {
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: Metrics,
}

/// Listens on `address`; port 0 takes any free one.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Bind { address, source })
}

/// Serves until the token is cancelled.
pub async fn serve(listener: TcpListener, shown: Shown, token: CancellationToken) -> Result<(), ServerError> {
    let server = axum::serve(listener, router(shown)).with_graceful_shutdown(token.cancelled_owned());
    server.await.map_err(ServerError::Serve)
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shown)
}

async fn readyz(State(shown): State<Shown>) -> impl IntoResponse {
    let pending = shown.readiness.pending();
    if pending.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", pending.join("\nwaiting for ")))
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, form)], shown.metrics.render())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::body::{Body, to_bytes};
    use http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn asked(shown: &Shown, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(shown.clone()).oneshot(request).await.unwrap();
        let code = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_names_what_it_waits_for_until_nothing_is_left() {
        let shown = Shown { readiness: Readiness::default(), metrics: Metrics::new() };
        let mut runs = shown.readiness.gate("watch runs");
        let mut lease = shown.readiness.gate("lease");
        let waiting = "waiting for watch runs\nwaiting for lease\n".to_owned();
        assert_eq!(asked(&shown, "/readyz").await, (503, waiting));
        assert_eq!(asked(&shown, "/livez").await, (200, "ok\n".into()));
        runs.open();
        lease.open();
        assert_eq!(asked(&shown, "/readyz").await, (200, "ok\n".into()));
    }

    #[tokio::test]
    async fn metrics_are_open_metrics_text() {
        let shown = Shown { readiness: Readiness::default(), metrics: Metrics::new() };
        shown.metrics.set_leading(true);
        let (code, text) = asked(&shown, "/metrics").await;
        assert_eq!(code, 200);
        assert!(text.contains("trainyard_leading 1\n") && text.ends_with("# EOF\n"), "{text}");
        assert_eq!(asked(&shown, "/").await.0, 404);
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_told_with_what_to_do() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = bind(taken.local_addr().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("--listen"), "{error}");
    }
}
