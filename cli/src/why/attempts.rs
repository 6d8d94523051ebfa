//! What happened to a run, attempt by attempt: whose fault, which budget.

use jiff::{SignedDuration, Timestamp};
use trainyard_api::Run;
use trainyard_api::run_status::{Attempt, AttemptCause, RunStatus};

use crate::words::{at, counted, length};

/// One line for each attempt that is remembered, and one for the budgets once something counts.
pub fn history(run: &Run, status: &RunStatus) -> Vec<String> {
    let totals = status.totals.clone().unwrap_or_default();
    let kept = status.attempts.len() as i64;
    let mut lines = Vec::new();
    let forgotten = i64::from(totals.attempts) - kept;
    if forgotten > 0 {
        lines.push(format!("{} before these are not kept", counted(forgotten, "attempt")));
    }
    lines.extend(status.attempts.iter().map(attempt));
    if totals.user_failures > 0 || totals.infrastructure_failures > 0 {
        let retries = &run.spec.retries;
        lines.push(format!(
            "Failures of its own: {}, forgiven are {} (retries.user). Failures of machines: {}, forgiven are {} \
             (retries.infrastructure).",
            totals.user_failures, retries.user, totals.infrastructure_failures, retries.infrastructure
        ));
    }
    lines
}

fn attempt(attempt: &Attempt) -> String {
    let Attempt {
        number,
        launched,
        cause,
        culprit,
        node_count,
        start_time,
        end_time,
        exit_code,
        reason,
        message,
        pods_gone: _,
    } = attempt;
    let nodes = counted(i64::from(*node_count), "node");
    let time = |time: &Option<trainyard_api::Time>| time.as_ref().map(|time| time.0);
    let (launched, started, ended) = (time(launched), time(start_time), time(end_time));
    let Some(cause) = cause else {
        return format!("Attempt {number} on {nodes} is live: {}", progress(launched, started));
    };
    let mut parts =
        vec![format!("Attempt {number} on {nodes}, {}: {cause}", lasted(launched, started, ended))];
    if let Some(message) = message.as_ref().filter(|message| !message.is_empty()) {
        parts.push(format!(": {}", message.trim_end_matches('.')));
    }
    let known = |word: &str| message.as_ref().is_some_and(|message| message.contains(word));
    if let Some(culprit) = culprit.as_ref().filter(|culprit| !known(culprit)) {
        parts.push(format!(" ({culprit})"));
    }
    if let Some(code) = exit_code.filter(|code| *code != 0 && !known(&code.to_string())) {
        parts.push(format!(", exit code {code}"));
    }
    if let Some(reason) = reason.as_ref().filter(|reason| !reason.is_empty() && !known(reason)) {
        parts.push(format!(" [{reason}]"));
    }
    format!("{}. {}.", parts.concat(), fault(*cause))
}

fn progress(launched: Option<Timestamp>, started: Option<Timestamp>) -> String {
    match (launched, started) {
        (_, Some(started)) => format!("its containers run since {}", at(started)),
        (Some(launched), None) => format!("launched at {}, its containers do not all run yet", at(launched)),
        (None, None) => "its pods are being made".to_owned(),
    }
}

fn lasted(launched: Option<Timestamp>, started: Option<Timestamp>, ended: Option<Timestamp>) -> String {
    let end = ended.map_or_else(|| "at an unknown time".to_owned(), |ended| format!("at {}", at(ended)));
    let since = |from: Timestamp| ended.map_or(SignedDuration::ZERO, |ended| ended.duration_since(from));
    match (started, launched) {
        (Some(started), _) => format!("ended {end} after running for {}", length(since(started))),
        (None, Some(launched)) => {
            format!(
                "ended {end}, {} after its launch, before all its containers ran",
                length(since(launched))
            )
        }
        (None, None) => format!("ended {end}, never launched"),
    }
}

/// Whose fault an end was, and what it cost.
pub const fn fault(cause: AttemptCause) -> &'static str {
    match cause {
        AttemptCause::Succeeded => "It did what it should",
        AttemptCause::UserCode => "The training's own fault; counts against retries.user",
        AttemptCause::Setup => "The fault of what it was given to start with; counts against retries.user",
        AttemptCause::Infrastructure => {
            "The machines' fault, not the training's; counts against retries.infrastructure"
        }
        AttemptCause::NotStarted => "Nobody's fault; costs nothing",
        AttemptCause::Suspended => "Its user's wish; costs nothing",
        AttemptCause::Canceled => "Its user's wish; ends the Run",
        AttemptCause::Requeue => "Nobody's fault: it was stopped to be queued again; costs nothing",
        AttemptCause::WallClock => "Its own time limit; ends the Run",
        AttemptCause::TotalTime => "The time limit of all its attempts together; ends the Run",
        AttemptCause::ClusterDeleted => "The wish of whoever deleted the Cluster; ends the Run",
        AttemptCause::Deallocated => {
            "The wish of whoever lowered maxNodes, with deallocation: Terminate; ends the Run"
        }
        AttemptCause::NamespaceQuota => "The namespace's ResourceQuota had no room; costs nothing",
        AttemptCause::Deleted => "The wish of whoever deleted the Run",
        AttemptCause::Unknown => "A newer version of trainyard wrote why",
    }
}
