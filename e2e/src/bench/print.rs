//! The figures, as lines and tables of plain text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::meter;
use super::pool::{PODS_PER_RUN, VM_SIZE};
use super::requests::{Kind, Requests};
use super::submission::Submission;

/// What submissions of one size took. Empty without any.
pub fn submissions(all: &[Submission], details: bool) -> String {
    let Some(last) = all.last() else { return String::new() };
    let runs = last.runs;
    let mut text = format!(
        "{runs} runs of {PODS_PER_RUN} pods on {runs} idle {VM_SIZE}, {} time(s), {} processors\n",
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

/// `median (least to most)`; one value alone.
fn spread(values: impl Iterator<Item = f64>) -> String {
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
    use super::spread;

    #[test]
    fn a_spread_is_the_median_and_the_ends() {
        assert_eq!(spread([3.0, 1.0, 2.0].into_iter()).trim(), "2.00 (1.00 to 3.00)");
        assert_eq!(spread([4.0, 1.0].into_iter()).trim(), "2.50 (1.00 to 4.00)");
        assert_eq!(spread([7.0].into_iter()).trim(), "7.00");
        assert_eq!(spread(std::iter::empty()), "none");
    }
}
