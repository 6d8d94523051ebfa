//! Every metric family of the operator.
//!
//! One [`Metrics`] is made at start and passed to whoever counts something; there is no global registry, so tests do
//! not share counters. Labels are closed sets: enums, HTTP codes, and names of watches and resource types, of which
//! a build has a fixed number. Never a name of an object: series would grow with use.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

/// The controllers, as label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ControllerName {
    /// Decides for a Cluster's nodes and queue.
    Cluster,
    /// Makes, watches and removes machines.
    Node,
    /// Runs attempts.
    Run,
    /// Makes and counts Experiments.
    Experiment,
    /// Says whether sizes can be used.
    VmSize,
}

impl fmt::Display for ControllerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Node => "node",
            Self::Run => "run",
            Self::Experiment => "experiment",
            Self::VmSize => "vmsize",
        })
    }
}

/// How a reconcile ended, as label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ReconcileOutcome {
    /// All is as it should be until something changes.
    Settled,
    /// Done for now; a later look is scheduled.
    Scheduled,
    /// Met a newer version than it had read; will be tried again soon.
    Conflicted,
    /// Failed; will be tried again after a back-off.
    Failed,
}

/// The verb of a request, as label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum RequestVerb {
    /// Read one object.
    Get,
    /// Read many objects.
    List,
    /// Follow many objects.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH, server-side apply included.
    Patch,
    /// DELETE.
    Delete,
    /// Anything else.
    Other,
}

/// Labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// What was asked.
    pub verb: RequestVerb,
    /// The type's plural, with the subresource after a slash: `pods`, `runs/status`.
    pub resource: String,
    /// The HTTP code, or `timeout` or `error` when there was no answer.
    pub code: String,
}

/// Why a watch had to recover, as label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum WatchFault {
    /// The list or the watch failed and is tried again.
    Stream,
    /// An object could not be decoded and is treated as absent.
    Undecodable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    watch: &'static str,
    fault: WatchFault,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchName {
    watch: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    controller: ControllerName,
    outcome: ReconcileOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabel {
    controller: ControllerName,
}

/// What became of an Event for people, as label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum EventOutcome {
    /// Written as a new Event.
    Created,
    /// Counted into an Event that exists.
    Aggregated,
    /// Not written: too many at once.
    Dropped,
    /// Not written: the API server refused or did not answer.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    outcome: EventOutcome,
}

/// All families. Clones share the same counters.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_seconds: Family<ControllerLabel, Histogram, fn() -> Histogram>,
    queue_depth: Family<ControllerLabel, Gauge>,
    watch_faults: Family<WatchLabels, Counter>,
    watch_objects: Family<WatchName, Gauge>,
    events: Family<EventLabels, Counter>,
    leading: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// 1 ms to 16 s: a reconcile that writes nothing takes under a millisecond, one that waits for the time limit of a
/// request takes ten seconds.
fn reconcile_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Metrics {
    /// Fresh families in a registry of their own.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("trainyard");
        let requests = Family::default();
        let reconciles = Family::default();
        let reconcile_seconds = Family::new_with_constructor(reconcile_buckets as fn() -> Histogram);
        let queue_depth = Family::default();
        let watch_faults = Family::default();
        let watch_objects = Family::default();
        let events = Family::default();
        let leading = Gauge::default();

        registry.register(
            "build",
            "Version of this operator",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register("api_requests", "Requests to the API server", requests.clone());
        registry.register("reconciles", "Reconciles by how they ended", reconciles.clone());
        registry.register(
            "reconcile_duration_seconds",
            "How long a reconcile took",
            reconcile_seconds.clone(),
        );
        registry.register("queue_depth", "Keys due and not yet being reconciled", queue_depth.clone());
        registry.register("watch_faults", "Faults of watches, recovered from", watch_faults.clone());
        registry.register("watch_objects", "Objects in the cache of a watch", watch_objects.clone());
        registry.register("events", "Events for people by what became of them", events.clone());
        registry.register("leading", "1 while this process holds the lease", leading.clone());

        Self {
            registry: Arc::new(registry),
            requests,
            reconciles,
            reconcile_seconds,
            queue_depth,
            watch_faults,
            watch_objects,
            events,
            leading,
        }
    }

    /// The `OpenMetrics` text of all families.
    pub fn render(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }

    /// Counts one request to the API server.
    pub fn count_request(&self, labels: &RequestLabels) {
        self.requests.get_or_create(labels).inc();
    }

    /// Requests counted so far under these labels.
    pub fn requests(&self, labels: &RequestLabels) -> u64 {
        self.requests.get(labels).map_or(0, |counter| counter.get())
    }

    /// Records one reconcile.
    pub fn record_reconcile(&self, controller: ControllerName, outcome: ReconcileOutcome, took: Duration) {
        self.reconciles.get_or_create(&ReconcileLabels { controller, outcome }).inc();
        self.reconcile_seconds.get_or_create(&ControllerLabel { controller }).observe(took.as_secs_f64());
    }

    /// Reconciles of this controller that ended so.
    pub fn reconciles(&self, controller: ControllerName, outcome: ReconcileOutcome) -> u64 {
        self.reconciles.get(&ReconcileLabels { controller, outcome }).map_or(0, |counter| counter.get())
    }

    /// Sets how many keys of this controller are due and waiting for a free slot.
    pub fn set_queue_depth(&self, controller: ControllerName, depth: usize) {
        self.queue_depth.get_or_create(&ControllerLabel { controller }).set(depth as i64);
    }

    /// Counts a fault of a watch.
    pub fn count_watch_fault(&self, watch: &'static str, fault: WatchFault) {
        self.watch_faults.get_or_create(&WatchLabels { watch, fault }).inc();
    }

    /// Faults of this watch so far.
    pub fn watch_faults(&self, watch: &'static str, fault: WatchFault) -> u64 {
        self.watch_faults.get(&WatchLabels { watch, fault }).map_or(0, |counter| counter.get())
    }

    /// Sets how many objects the cache of a watch holds.
    pub fn set_watch_objects(&self, watch: &'static str, objects: usize) {
        self.watch_objects.get_or_create(&WatchName { watch }).set(objects as i64);
    }

    /// Counts an Event by what became of it.
    pub fn count_event(&self, outcome: EventOutcome) {
        self.events.get_or_create(&EventLabels { outcome }).inc();
    }

    /// Events that ended so.
    pub fn events(&self, outcome: EventOutcome) -> u64 {
        self.events.get(&EventLabels { outcome }).map_or(0, |counter| counter.get())
    }

    /// Says whether this process holds the lease.
    pub fn set_leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_rendered_under_the_prefix() {
        let metrics = Metrics::new();
        metrics.count_request(&RequestLabels {
            verb: RequestVerb::Patch,
            resource: "runs/status".into(),
            code: "409".into(),
        });
        metrics.record_reconcile(ControllerName::Run, ReconcileOutcome::Failed, Duration::from_millis(3));
        metrics.set_queue_depth(ControllerName::Cluster, 4);
        metrics.count_watch_fault("runs", WatchFault::Stream);
        metrics.set_watch_objects("runs", 12);
        metrics.count_event(EventOutcome::Dropped);
        metrics.set_leading(true);
        let text = metrics.render();
        for line in [
            r#"trainyard_api_requests_total{verb="Patch",resource="runs/status",code="409"} 1"#,
            r#"trainyard_reconciles_total{controller="Run",outcome="Failed"} 1"#,
            r#"trainyard_reconcile_duration_seconds_count{controller="Run"} 1"#,
            r#"trainyard_queue_depth{controller="Cluster"} 4"#,
            r#"trainyard_watch_faults_total{watch="runs",fault="Stream"} 1"#,
            r#"trainyard_watch_objects{watch="runs"} 12"#,
            r#"trainyard_events_total{outcome="Dropped"} 1"#,
            "trainyard_leading 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in:\n{text}");
        }
        assert!(text.contains("trainyard_build_info{version="));
    }

    #[test]
    fn two_registries_share_nothing() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.count_event(EventOutcome::Created);
        assert_eq!((one.events(EventOutcome::Created), other.events(EventOutcome::Created)), (1, 0));
    }
}
