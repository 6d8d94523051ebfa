//! The figures, as lines and tables of plain text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::disaster::Recovery;
use super::flow::Flow;
use super::meter;
use super::pool::{Machines, PODS_PER_RUN, VM_SIZE};
use super::queue::{Rate, STARTS};
use super::requests::{Kind, Requests};
use super::submission::Submission;

/// What submissions of one size took. Empty without any.
pub fn submissions(all: &[Submission], details: bool) -> String {
    let Some(last) = all.last() else { return String::new() };
    let runs = last.runs;
    let mut text = format!(
        "{runs} runs of {PODS_PER_RUN} pods on {} idle {VM_SIZE} ({}), {} time(s), {} processors\n",
        last.machines,
        match last.source {
            Machines::Made => "made by Karpenter",
            Machines::Lent => "lent, no Karpenter",
        },
        all.len(),
        meter::processors()
    );
    let mut line = |what: &str, unit: &str, of: &dyn Fn(&Submission) -> f64| {
        let _ = writeln!(text, "  {what:<52}{} {unit}", spread(all.iter().map(of)));
    };
    let per_run = |count: usize| count as f64 / runs as f64;
    line("submitted after", "s", &|one| one.submitted.as_secs_f64());
    line("first run running after", "s", &|one| one.first.as_secs_f64());
    line("half of them running after", "s", &|one| one.median.as_secs_f64());
    line("ALL RUNNING AFTER", "s", &|one| one.last.as_secs_f64());
    line("operator: processor time", "s", &|one| one.usage.operator);
    line("operator: most memory", "MB", &|one| one.peak_memory as f64 / 1e6);
    line("API server: processor time", "s", &|one| one.usage.api_server);
    line("writes per run, whole cluster", "", &|one| per_run(one.requests.all_writes()));
    line("writes per run, operator", "", &|one| per_run(one.requests.operator_writes()));
    line("requests per run, operator", "", &|one| per_run(one.requests.of_operator.values().sum()));
    for verb in verbs(all) {
        let name = format!("  {verb}");
        line(&name, "", &|one| per_run(one.requests.by_verb().get(verb.as_str()).copied().unwrap_or(0)));
    }
    line("conflicts per run, operator", "", &|one| per_run(one.requests.operator_conflicts()));
    line("processors busy with other work (0 is a quiet machine)", "", &|one| one.usage.others);
    line("load average", "", &|one| one.usage.load);
    if details {
        let _ = writeln!(text, "\nprocessor seconds of the last of them");
        for (name, used) in &last.usage.by_process {
            let _ = writeln!(text, "  {name:<28}{used:>8.2}");
        }
        text.push_str(&requests(&last.requests, runs));
    }
    text
}

fn verbs(all: &[Submission]) -> Vec<String> {
    let mut verbs: Vec<String> =
        all.iter().flat_map(|one| one.requests.by_verb().into_keys()).map(ToOwned::to_owned).collect();
    verbs.sort();
    verbs.dedup();
    verbs
}

fn requests(requests: &Requests, runs: usize) -> String {
    let mut text = String::from("\nrequests of the operator, per run\n");
    table(&mut text, &requests.of_operator, runs, false);
    text.push_str("\nwrites of everybody, per run\n");
    table(&mut text, &requests.writes, runs, true);
    let _ =
        writeln!(text, "  (not counted: {} renewed leases and heartbeats of machines)", requests.heartbeats);
    text
}

fn table(text: &mut String, counts: &BTreeMap<Kind, usize>, runs: usize, with_user: bool) {
    let mut rows: Vec<_> = counts.iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (kind, count) in rows {
        let Kind { user, verb, resource, outcome } = kind;
        let per_run = *count as f64 / runs as f64;
        let user = if with_user { user.as_str() } else { "" };
        let line = format!("{per_run:>9.2}  {verb} {resource} {outcome} {user}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// How long lost machines took.
pub fn losses(all: &[Duration]) -> String {
    format!(
        "a run whose Node is deleted, until it is whole again on another one, {} time(s)\n  {:<52}{} s\n",
        all.len(),
        "WHOLE AGAIN AFTER",
        spread(all.iter().map(Duration::as_secs_f64))
    )
}

/// How gangs recovered from the loss of many machines at once.
pub fn disaster(kind: &str, machines: usize, all: &[Recovery]) -> String {
    let per_gang: Vec<f64> = all.iter().flat_map(|one| &one.pods_made).map(Duration::as_secs_f64).collect();
    let mut text = format!("{machines} machines under gangs of two {kind} at once, {} time(s)\n", all.len());
    let mut line = |what: &str, value: String| {
        let _ = writeln!(text, "  {what:<52}{value}");
    };
    line("PODS OF THE NEXT ATTEMPT MADE AFTER, p50", format!("{:>8.2} s", percentile(&per_gang, 50)));
    line("the same, p99", format!("{:>8.2} s", percentile(&per_gang, 99)));
    line(
        "every gang running again after",
        format!("{} s", spread(all.iter().map(|one| one.running.as_secs_f64()))),
    );
    line("machines bought for that", spread(all.iter().map(|one| one.bought as f64)));
    line("machines there that no gang uses", spread(all.iter().map(|one| one.unused as f64)));
    text
}

/// What many runs through one Cluster took.
pub fn flow(runs: usize, most: usize, flow: &Flow) -> String {
    let mut text = format!(
        "{runs} runs of one pod and one second through a Cluster of at most {most} machines, {} processors\n",
        meter::processors()
    );
    let mut line = |what: &str, unit: &str, value: f64| {
        let _ = writeln!(text, "  {what:<52}{value:>8.2} {unit}");
    };
    let per_run = |count: usize| count as f64 / runs as f64;
    line("submitted after", "s", flow.submitted.as_secs_f64());
    line("ALL COMPLETED AFTER", "s", flow.completed.as_secs_f64());
    line("last machine gone after", "s", flow.empty.as_secs_f64());
    line("machines made", "", flow.machines as f64);
    line("most of them at once", "", flow.most_at_once as f64);
    line("operator: processor time", "s", flow.usage.operator);
    line("operator: most memory", "MB", flow.peak_memory as f64 / 1e6);
    line("operator: memory at the end", "MB", flow.memory_at_end as f64 / 1e6);
    line("API server: processor time", "s", flow.usage.api_server);
    line("requests per run, operator", "", per_run(flow.requests.of_operator.values().sum()));
    line("writes per run, operator", "", per_run(flow.requests.operator_writes()));
    line("writes per run, whole cluster", "", per_run(flow.requests.all_writes()));
    line("processors busy with other work (0 is a quiet machine)", "", flow.usage.others);
    text
}

/// How fast runs were started, by how many waited.
pub fn rates(all: &[Rate]) -> String {
    let mut text = String::from("runs started from one queue, side by side\n");
    for rate in all {
        let per_start = 1000.0 * rate.usage.operator / (STARTS as f64);
        let _ = writeln!(
            text,
            "  {:>6} queued: {:>6.2} starts/s; operator {per_start:>6.1} ms of processor per start, {:.0} MB; all accepted {:.0} s after the last was submitted",
            rate.queued,
            rate.per_second,
            rate.memory as f64 / 1e6,
            rate.accepted.as_secs_f64(),
        );
    }
    text
}

/// The value that so many of a hundred are not above; 0 without any.
fn percentile(values: &[f64], hundredth: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * hundredth).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// `median (least to most)`; one value alone.
pub fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else { return "none".to_owned() };
    let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
    if values.len() == 1 {
        format!("{median:>8.2}")
    } else {
        format!("{median:>8.2} ({least:.2} to {most:.2})")
    }
}

#[cfg(test)]
mod tests {
    use super::{percentile, spread};

    #[test]
    fn a_spread_is_the_median_and_the_ends() {
        assert_eq!(spread([3.0, 1.0, 2.0].into_iter()).trim(), "2.00 (1.00 to 3.00)");
        assert_eq!(spread([4.0, 1.0].into_iter()).trim(), "2.50 (1.00 to 4.00)");
        assert_eq!(spread([7.0].into_iter()).trim(), "7.00");
        assert_eq!(spread(std::iter::empty()), "none");
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (50.0, 99.0));
        assert_eq!((percentile(&[7.0], 99), percentile(&[], 50)), (7.0, 0.0));
    }
}
