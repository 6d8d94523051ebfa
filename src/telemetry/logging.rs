//! Logs on standard error, for people or as JSON.
//!
//! [`init`] is called once, by `main`. Everything else uses `tracing`'s macros.

use std::{fmt, io::IsTerminal as _};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, format::FmtSpan},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why logs cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not understood.
    #[error(
        "cannot read the log filter {filter:?}; write a level (info) or levels by module (info,trainyard=debug)"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// A subscriber was installed before.
    #[error("logs were set up before")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// The client library reports every refused request as an error, conflicts and probes for absent objects included.
/// Whoever asked classifies and reports them; a filter that names these modules shows them again.
const SILENT: &str = "kube_client=off,kube_runtime=off,tower=off,hyper_util=off";

/// Sends logs to standard error from now on.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    match format {
        LogFormat::Text => text(filter, std::io::stderr, std::io::stderr().is_terminal())?.try_init(),
        LogFormat::Json => json(filter, std::io::stderr)?.try_init(),
    }
    .map_err(LoggingError::Twice)
}

fn filtered(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::try_new(format!("{SILENT},{filter}"))
        .map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })
}

fn text<W>(filter: &str, writer: W, in_color: bool) -> Result<impl Subscriber + Send + Sync, LoggingError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_span_events(FmtSpan::NONE)
        .with_target(false)
        .with_ansi(in_color);
    Ok(tracing_subscriber::registry().with(filtered(filter)?).with(lines.with_writer(writer)))
}

fn json<W>(filter: &str, writer: W) -> Result<impl Subscriber + Send + Sync, LoggingError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_span_list(false);
    Ok(tracing_subscriber::registry().with(filtered(filter)?).with(lines.with_writer(writer)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Memory {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone())
                .unwrap()
                .lines()
                .map(ToOwned::to_owned)
                .collect()
        }
    }

    fn say_things() {
        let _span = tracing::info_span!("reconcile", key = "lab/nc6").entered();
        tracing::info!(node = "n1", "node requested");
        tracing::debug!("a detail");
        tracing::error!(target: "kube_client::client::builder", "failed with status 409");
    }

    #[test]
    fn json_lines_carry_fields_and_span() {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = json("info", move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, say_things);
        let lines = memory.lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["message"], "node requested");
        assert_eq!((line["level"].as_str(), line["node"].as_str()), (Some("INFO"), Some("n1")));
        assert_eq!(line["span"]["key"], "lab/nc6");
    }

    #[test]
    fn a_filter_selects_levels_and_shows_the_client_when_named() {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = text("debug,kube_client=error", move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, say_things);
        let lines = memory.lines();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].contains("node requested") && !lines[0].contains('\u{1b}'), "{lines:?}");
    }

    #[test]
    fn a_filter_that_is_not_understood_is_told_with_what_to_write() {
        let error = filtered("trainyard=loud").unwrap_err().to_string();
        assert!(error.contains("trainyard=loud") && error.contains("info,trainyard=debug"), "{error}");
    }
}
